#include "conv_windows.hpp"

#include <algorithm>
#include <vector>

#include "bfloat16x3.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// The left operand is made of the pixels, the right one of the weights. Pixels are turned over to [pixel][channel] and
// split; then what a row of a window meets lies in one piece, at any stride, and that of the next window a stride
// further: tiles are read where they lie, though they overlap, and nothing is packed. The sums, [pixel][columns], are
// turned over when they are complete.
constexpr index_t step_terms = 2 * Unit::pairs;
constexpr index_t most_terms = 1200;       // that are summed at a time
constexpr index_t most_pixels = 512;       // of a block of results
constexpr index_t sum_elements = 1 << 16;  // the same, times output channels
constexpr index_t slab_terms = 160 << 10;  // of what it reads

/// The taps of an axis in the order of the pixels that they meet.
std::vector<Tap> in_order(const Axis& axis) {
    std::vector<Tap> taps = axis.taps;
    std::sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
    return taps;
}

/// What of an axis a strip of results reads: from `first` on, `count` of which [begin, end) lie inside.
struct Reach {
    index_t first, count, begin, end;

    Reach(const Axis& axis, index_t lowest_offset, index_t result, index_t results, index_t reach)
        : first(result * axis.stride + lowest_offset), count((results - 1) * axis.stride + reach + 1) {
        begin = std::clamp<index_t>(-first, 0, count);
        end = std::clamp<index_t>(axis.in - first, begin, count);
    }
};

/// Some pixels of a tile, which follow each other in a row of results, and where in the block these are.
struct Piece {
    index_t row, rows, to, image;
};
struct Tile {
    index_t source;  ///< the first window's first pixel in the slab
    index_t rows = 0;
    std::size_t first_piece = 0, pieces = 0;
};

}  // namespace

std::vector<index_t> correlate_windows(const Correlation<float>& c) {
    const TypedKernels<float>& kernel = kernels_of<float>();
    const Bfloat16x3Kernels& unit = *bfloat16x3_kernels();
    if (c.images == 0 || c.v.out == 0 || c.h.out == 0) return {};
    const std::vector<Tap> v_taps = in_order(c.v), h_taps = in_order(c.h);
    const index_t reach_v = v_taps.back().offset - v_taps.front().offset;
    const index_t reach_h = h_taps.back().offset - h_taps.front().offset;
    const auto rows_of_window = static_cast<index_t>(v_taps.size()), row_taps = static_cast<index_t>(h_taps.size());
    const index_t panels = ceil_div(c.out_channels, Unit::columns), threads = get_num_threads();

    // Chunks of input channels. A pixel of the slab has `width` of them, an even number.
    index_t chunk_channels = c.in_channels;
    if (chunk_channels * c.taps() > most_terms) {
        chunk_channels = std::min(c.in_channels, std::max<index_t>(most_terms / c.taps() / step_terms, 1) * step_terms);
    }
    const index_t chunks = ceil_div(c.in_channels, chunk_channels), width = ceil_div(chunk_channels, 2) * 2;
    const index_t row_steps = ceil_div(row_taps * width, step_terms), steps = rows_of_window * row_steps;
    const index_t weight_part = steps * Unit::pairs * Unit::columns, weight_size = Unit::parts * weight_part;
    Scratch<Bfloat16Pair> weights(c.groups * panels * chunks * weight_size);
    Scratch<float> biases(c.groups * panels * Unit::columns);
    biases.clear();
    parallel_for(c.groups * panels, static_cast<double>(chunks * weight_size) * element_ns, [&](index_t task) {
        const index_t group = task / panels, m = task % panels * Unit::columns;
        const index_t count = std::min<index_t>(Unit::columns, c.out_channels - m);
        Scratch<float> packed(c.reduction() * Unit::columns), in_steps(steps * step_terms * Unit::columns);
        pack_weights(c, group, m, count, Unit::columns, packed.data());
        for (index_t chunk = 0; chunk < chunks; ++chunk) {
            const index_t first = chunk * chunk_channels, last = std::min(first + chunk_channels, c.in_channels);
            in_steps.clear();
            float* to_row = in_steps.data();
            for (const Tap& v : v_taps) {
                float* to = to_row;
                for (const Tap& h : h_taps) {
                    const index_t tap = c.tap_place(v, h);
                    for (index_t channel = first; channel < last; ++channel) {
                        const float* const from = packed.data() + (channel * c.taps() + tap) * Unit::columns;
                        std::copy(from, from + Unit::columns, to + (channel - first) * Unit::columns);
                    }
                    to += width * Unit::columns;
                }
                to_row += row_steps * step_terms * Unit::columns;
            }
            unit.split_columns(steps * step_terms, Unit::columns, in_steps.data(), Unit::columns,
                               weights.data() + (task * chunks + chunk) * weight_size, Unit::columns, weight_part);
        }
        const index_t channel = group * c.out_channels + m;
        if (c.bias) std::copy(c.bias + channel, c.bias + channel + count, biases.data() + task * Unit::columns);
    });

    const index_t panels_at_once = std::min(panels, ceil_div(sum_elements, 64 * Unit::columns));
    const index_t slab_pixels = slab_terms / width, row_pixels = std::min(c.h.out, most_pixels) * c.h.stride + reach_h;
    const index_t slab_rows = std::max<index_t>((slab_pixels / row_pixels - reach_v) / c.v.stride, 1);
    const index_t most = std::min({most_pixels, sum_elements / (panels_at_once * Unit::columns), slab_rows * c.h.out});
    const BlockGrid grid = balanced_grid(c.images, c.v.out, c.h.out, most, threads);
    const index_t blocks = grid.blocks() * c.groups, parts = std::clamp<index_t>(threads / blocks, 1, panels);
    const index_t slab_width = (grid.block_cols - 1) * c.h.stride + reach_h + 1;
    const index_t most_strips = (grid.block_rows + c.v.out - 2) / c.v.out + 1;
    const index_t most_rows = most_strips * (reach_v + 1) + grid.block_rows * c.v.stride;
    const index_t pixel_pairs = width / 2, ld_a = c.h.stride * pixel_pairs;
    const index_t slack = Unit::rows * ld_a + (reach_h + 1) * pixel_pairs + step_terms;
    const index_t slab_part = most_rows * slab_width * pixel_pairs + slack;
    std::vector<index_t> at_a, at_b;
    for (const Tap& v : v_taps) {
        for (index_t step = 0; step < row_steps; ++step) {
            at_a.push_back((v.offset - v_taps[0].offset) * slab_width * pixel_pairs + step * Unit::pairs);
            at_b.push_back(static_cast<index_t>(at_b.size()) * Unit::pairs * Unit::columns);
        }
    }
    // Tiles go on behind the end of a row, with windows that nobody wants, if that wastes less than to begin anew.
    const bool across_rows = c.h.stride == 1 && c.v.stride == 1 && slab_width < ceil_div(grid.block_cols, 16) * 16;

    FailedImages failed(c.images);
    const double task_ns = static_cast<double>(grid.block_rows * grid.block_cols * ceil_div(c.out_channels, parts)) *
                           static_cast<double>(c.reduction()) * fma_ns / 2;
    parallel_for(blocks * parts, task_ns, [&](index_t task) {
        const index_t part = task % parts, group = task / parts % c.groups;
        const Block block = grid.block(task / parts / c.groups);
        const index_t first_panel = share_begin(part, parts, panels), last_panel = share_begin(part + 1, parts, panels);
        const index_t pixels = block.rows() * block.width();
        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        std::vector<Tile> tiles;
        std::vector<Piece> pieces;
        index_t source = 0, to = 0;
        for (Strip& strip : strips) {
            strip.source = source;
            source += ((strip.rows - 1) * c.v.stride + reach_v + 1) * slab_width;
            for (index_t y = 0; y < strip.rows; ++y) {
                for (index_t x = 0; x < block.width();) {
                    const index_t pixel = strip.source + y * c.v.stride * slab_width + x * c.h.stride;
                    const bool goes_on = !tiles.empty() && (across_rows || x > 0);
                    index_t row = goes_on ? (pixel - tiles.back().source) / c.h.stride : Unit::rows;
                    if (row >= Unit::rows) {
                        tiles.push_back({pixel, 0, pieces.size(), 0});
                        row = 0;
                    }
                    const index_t count = std::min(Unit::rows - row, block.width() - x);
                    pieces.push_back({row, count, to, strip.image});
                    ++tiles.back().pieces;
                    tiles.back().rows = row + count;
                    x += count;
                    to += count;
                }
            }
        }

        Scratch<Bfloat16Pair> slab(Unit::parts * slab_part);
        Scratch<float> sums((last_panel - first_panel) * pixels * Unit::columns);
        Scratch<float> turned(most_rows * slab_width * width + step_terms);
        float tile_sums[Unit::rows * Unit::columns];
        const UnitInUse in_use;
        for (index_t chunk = 0; chunk < chunks; ++chunk) {
            const index_t first = chunk * chunk_channels, channels = std::min(chunk_channels, c.in_channels - first);
            for (const Strip& strip : strips) {
                const Reach v(c.v, v_taps[0].offset, strip.row, strip.rows, reach_v);
                const Reach h(c.h, h_taps[0].offset, block.col_begin, block.width(), reach_h);
                const index_t in_plane = c.v.in * c.h.in, inside = h.end - h.begin;
                const float* const from = c.in + ((strip.image * c.groups + group) * c.in_channels + first) * in_plane +
                                          (v.first + v.begin) * c.h.in + h.first + h.begin;
                // Rows of full width follow each other.
                const index_t at_once = inside == c.h.in ? v.end - v.begin : 1;
                for (index_t y = 0; y < v.end - v.begin; y += at_once) {
                    kernel.pack_transposed(from + y * c.h.in, in_plane, channels, at_once * inside,
                                           turned.data() + y * inside * width, width, width);
                }
                for (index_t y = 0; y < v.count; ++y) {
                    Bfloat16Pair* const row = slab.data() + (strip.source + y * slab_width) * pixel_pairs;
                    const bool is_inside = y >= v.begin && y < v.end;
                    const index_t begin = is_inside ? h.begin : slab_width, end = is_inside ? h.end : slab_width;
                    for (int p = 0; p < Unit::parts; ++p) {
                        std::fill(row + p * slab_part, row + p * slab_part + begin * pixel_pairs, 0);
                    }
                    if (begin < end) {
                        unit.split_rows(1, (end - begin) * width, turned.data() + (y - v.begin) * inside * width, 0,
                                        row + begin * pixel_pairs, 0, slab_part);
                    }
                    for (int p = 0; p < Unit::parts; ++p) {
                        std::fill(row + p * slab_part + end * pixel_pairs,
                                  row + p * slab_part + slab_width * pixel_pairs, 0);
                    }
                }
            }
            for (int p = 0; p < Unit::parts; ++p) {
                Bfloat16Pair* const behind = slab.data() + p * slab_part + source * pixel_pairs;
                std::fill(behind, behind + slack, 0);
            }
            for (index_t panel = first_panel; panel < last_panel; ++panel) {
                const index_t index = group * panels + panel;
                const auto columns =
                    static_cast<int>(std::min<index_t>(Unit::columns, c.out_channels - panel * Unit::columns));
                const Unit::Operand b{weights.data() + (index * chunks + chunk) * weight_size, at_b.data(),
                                      Unit::columns, weight_part};
                float* const to_panel = sums.data() + (panel - first_panel) * pixels * Unit::columns;
                for (const Tile& tile : tiles) {
                    const Unit::Operand a{slab.data() + tile.source * pixel_pairs, at_a.data(), ld_a, slab_part};
                    unit.tile(static_cast<int>(tile.rows), columns, steps, a, b, tile_sums, false);
                    for (std::size_t i = tile.first_piece; i < tile.first_piece + tile.pieces; ++i) {
                        const Piece& piece = pieces[i];
                        const float* const rows = tile_sums + piece.row * Unit::columns;
                        if (unit.no_numbers(static_cast<int>(piece.rows), columns, rows) != 0) {
                            failed.add(piece.image);
                        }
                        unit.add_rows(piece.rows, rows, biases.data() + index * Unit::columns, chunk > 0,
                                      c.relu && chunk + 1 == chunks, to_panel + piece.to * Unit::columns);
                    }
                }
            }
        }
        for (index_t panel = first_panel; panel < last_panel; ++panel) {
            const float* sum = sums.data() + (panel - first_panel) * pixels * Unit::columns;
            const index_t m = panel * Unit::columns, count = std::min<index_t>(Unit::columns, c.out_channels - m);
            for (const Strip& strip : strips) {
                store_pixels(c, strip, block.col_begin, block.width(), group * c.out_channels + m, count, sum);
                sum += strip.rows * block.width() * Unit::columns;
            }
        }
    });
    return failed.list();
}

}  // namespace npconv
