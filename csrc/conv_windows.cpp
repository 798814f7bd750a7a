#include "conv_windows.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "bfloat16x3.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// The left operand is made of the pixels, the right one of the weights. Pixels are turned over to [pixel][channel] and
// split; then what a row of a window meets lies in one piece, at any stride, and that of the next window a stride
// further: tiles are read where they lie, though they overlap, and nothing is packed. So it goes on in the next row of
// results, since with a stride every stride-th row of pixels follows another. The sums, [pixel][columns], are turned
// over when they are complete.
constexpr index_t step_terms = 2 * Unit::pairs;
constexpr index_t most_terms = 1200;       // that are summed at a time
constexpr index_t most_pixels = 512;       // of a block of results
constexpr index_t sum_elements = 1 << 16;  // the same, times output channels
constexpr index_t slab_terms = 160 << 10;  // of what it reads

/// The windows' rows, cut into steps of the unit, and the input channels, cut into chunks that are summed one by one.
struct Steps {
    std::vector<Tap> v, h;  ///< the taps in the order of the pixels that they meet
    index_t reach_v, reach_h;
    index_t chunk_channels, chunks;
    index_t width;  ///< how many terms a pixel has in the slab, an even number
    index_t of_row, count;

    explicit Steps(const Correlation<float>& c) : v(c.v.taps), h(c.h.taps), chunk_channels(c.in_channels) {
        const auto lower = [](const Tap& a, const Tap& b) { return a.offset < b.offset; };
        std::sort(v.begin(), v.end(), lower);
        std::sort(h.begin(), h.end(), lower);
        reach_v = v.back().offset - v.front().offset;
        reach_h = h.back().offset - h.front().offset;
        if (c.reduction() > most_terms) {
            const index_t wanted = std::max<index_t>(most_terms / c.taps() / step_terms, 1) * step_terms;
            chunk_channels = std::min(c.in_channels, wanted);
        }
        chunks = ceil_div(c.in_channels, chunk_channels);
        width = ceil_div(chunk_channels, 2) * 2;
        of_row = ceil_div(static_cast<index_t>(h.size()) * width, step_terms);
        count = static_cast<index_t>(v.size()) * of_row;
    }
};

/// The weights of a panel of output channels, as pack_weights has them, and input channels [first, last): as a right
/// operand.
void split_weights(const Correlation<float>& c, const Steps& steps, const float* packed, index_t first, index_t last,
                   Bfloat16Pair* to, index_t part) {
    Scratch<float> rows(steps.count * step_terms * Unit::columns);
    rows.clear();
    float* to_row = rows.data();
    for (const Tap& v : steps.v) {
        float* to_tap = to_row;
        for (const Tap& h : steps.h) {
            const index_t tap = c.tap_place(v, h);
            for (index_t channel = first; channel < last; ++channel) {
                const float* const from = packed + (channel * c.taps() + tap) * Unit::columns;
                std::copy(from, from + Unit::columns, to_tap + (channel - first) * Unit::columns);
            }
            to_tap += steps.width * Unit::columns;
        }
        to_row += steps.of_row * step_terms * Unit::columns;
    }
    bfloat16x3_kernels()->split_columns(steps.count * step_terms, Unit::columns, rows.data(), Unit::columns, to,
                                        Unit::columns, part);
}

/// What of an axis some successive results read: `count` pixels from `first` on, of which [begin, end) lie inside.
struct Reach {
    index_t first, count, begin, end;

    Reach(const Axis& axis, index_t lowest_offset, index_t result, index_t results, index_t reach)
        : first(result * axis.stride + lowest_offset), count((results - 1) * axis.stride + reach + 1) {
        begin = std::clamp<index_t>(-first, 0, count);
        end = std::clamp<index_t>(axis.in - first, begin, count);
    }
};

/// Where the pixels that a block reads lie: one plane for each phase of the rows (every stride-th one, from the first,
/// the second, ...), in it rows of `row` pixels, strip by strip, with a few zeros behind each, so that the last step of
/// a row of its last window meets no other image. Both are whole numbers of strides, so that tiles may go on there.
struct WindowSlab {
    index_t row, reach_rows, behind, pixel_pairs, phases, plane, part;

    WindowSlab(const Correlation<float>& c, const Steps& steps, index_t block_rows, index_t block_cols)
        : row((block_cols - 1 + ceil_div(steps.reach_h + 1, c.h.stride)) * c.h.stride),
          reach_rows(steps.reach_v / c.v.stride),
          pixel_pairs(steps.width / 2),
          phases(c.v.stride) {
        behind = ceil_div(ceil_div(step_terms, steps.width) + 1, c.h.stride) * c.h.stride;
        const index_t strips = (block_rows + c.v.out - 2) / c.v.out + 1;    // a block may begin inside an image
        const index_t last_tile = Unit::rows * c.h.stride + steps.reach_h;  // is read whole
        plane = (block_rows + strips * reach_rows) * row + strips * behind;
        part = (phases * plane + last_tile) * pixel_pairs + step_terms;
    }
    index_t pixels(const Strip& strip) const { return (strip.rows + reach_rows) * row + behind; }  ///< in each plane
    /// Where a row of a strip lies that is `offset` rows behind the one that its first window reads first.
    index_t row_offset(index_t offset) const { return offset % phases * plane + offset / phases * row; }
};

/// Turns over, to `turned`, and splits what a strip reads of `channels` channels from `first` of a group on.
void fill_slab(const Correlation<float>& c, const Steps& steps, const WindowSlab& layout, const Block& block,
               const Strip& strip, index_t group, index_t first, index_t channels, float* turned, Bfloat16Pair* slab) {
    const Reach v(c.v, steps.v[0].offset, strip.row, strip.rows, steps.reach_v);
    const Reach h(c.h, steps.h[0].offset, block.col_begin, block.width(), steps.reach_h);
    const index_t in_plane = c.v.in * c.h.in, rows = v.end - v.begin, cols = h.end - h.begin;
    const float* const from = c.in + ((strip.image * c.groups + group) * c.in_channels + first) * in_plane +
                              (v.first + v.begin) * c.h.in + h.first + h.begin;
    const index_t at_once = cols == c.h.in ? rows : 1;  // rows of full width follow each other
    for (index_t y = 0; y < rows; y += at_once) {
        kernels_of<float>().pack_transposed(from + y * c.h.in, in_plane, channels, at_once * cols,
                                            turned + y * cols * steps.width, steps.width, steps.width);
    }
    // In order, since whole vectors are written.
    Bfloat16Pair* to = nullptr;
    const auto zeros = [&](index_t pixels) {
        for (int p = 0; p < Unit::parts; ++p) std::fill_n(to + p * layout.part, pixels * layout.pixel_pairs, 0);
        to += pixels * layout.pixel_pairs;
    };
    for (index_t phase = 0; phase < layout.phases; ++phase) {
        to = slab + (phase * layout.plane + strip.source) * layout.pixel_pairs;
        for (index_t y = phase; y < v.count; y += layout.phases) {
            if (y < v.begin || y >= v.end) {
                zeros(layout.row);
                continue;
            }
            zeros(h.begin);
            bfloat16x3_kernels()->split_rows(1, cols * steps.width, turned + (y - v.begin) * cols * steps.width, 0, to,
                                             0, layout.part);
            to += cols * layout.pixel_pairs;
            zeros(layout.row - h.end);
        }
        zeros(layout.behind);
    }
}

/// Some pixels of a tile that follow each other in a row of results, and where in the block these are.
struct Piece {
    index_t row, rows, to, image;
};
struct Tile {
    index_t source;  ///< where in the slab the first pixel of the first window lies
    std::size_t first_piece;
    std::size_t pieces = 0;
    index_t rows = 0;
};
struct Tiles {
    std::vector<Tile> list;
    std::vector<Piece> pieces;  ///< of all of them
};

/// Cuts the pixels of a block into tiles. `across_rows`: they go on behind the end of a row, with windows that nobody
/// wants.
Tiles cut_into_tiles(const Correlation<float>& c, const WindowSlab& layout, const Block& block,
                     const std::vector<Strip>& strips, bool across_rows) {
    std::vector<Tile> tiles;
    std::vector<Piece> pieces;
    index_t to = 0;
    for (const Strip& strip : strips) {
        for (index_t y = 0; y < strip.rows; ++y) {
            for (index_t x = 0; x < block.width();) {
                const index_t pixel = strip.source + y * layout.row + x * c.h.stride;
                const bool goes_on = !tiles.empty() && (across_rows || x > 0);
                index_t row = goes_on ? (pixel - tiles.back().source) / c.h.stride : Unit::rows;
                if (row >= Unit::rows) {
                    tiles.push_back({pixel, pieces.size()});
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
    return {std::move(tiles), std::move(pieces)};
}

}  // namespace

std::vector<index_t> correlate_windows(const Correlation<float>& c) {
    const Bfloat16x3Kernels& unit = *bfloat16x3_kernels();
    if (c.images == 0 || c.v.out == 0 || c.h.out == 0) return {};
    const Steps steps(c);
    const index_t panels = ceil_div(c.out_channels, Unit::columns), threads = get_num_threads();
    const index_t weight_part = steps.count * Unit::pairs * Unit::columns, weight_size = Unit::parts * weight_part;
    Scratch<Bfloat16Pair> weights(c.groups * panels * steps.chunks * weight_size);
    Scratch<float> biases(c.groups * panels * Unit::columns);
    biases.clear();
    Largest largest_weight;
    parallel_for(c.groups * panels, static_cast<double>(steps.chunks * weight_size) * element_ns, [&](index_t task) {
        const index_t group = task / panels, m = task % panels * Unit::columns, channel = group * c.out_channels + m;
        const index_t count = std::min<index_t>(Unit::columns, c.out_channels - m);
        Scratch<float> packed(c.reduction() * Unit::columns);
        pack_weights(c, group, m, count, Unit::columns, packed.data());
        largest_weight.add_rows(packed.data(), c.reduction());
        for (index_t chunk = 0; chunk < steps.chunks; ++chunk) {
            const index_t first = chunk * steps.chunk_channels;
            split_weights(c, steps, packed.data(), first, std::min(first + steps.chunk_channels, c.in_channels),
                          weights.data() + (task * steps.chunks + chunk) * weight_size, weight_part);
        }
        if (c.bias) std::copy(c.bias + channel, c.bias + channel + count, biases.data() + task * Unit::columns);
    });

    const index_t row_pixels = std::min(c.h.out, most_pixels) * c.h.stride + steps.reach_h;
    const index_t slab_rows = slab_terms / steps.width / row_pixels;
    const index_t rows = std::max<index_t>((slab_rows - steps.reach_v) / c.v.stride, 1);
    const index_t panels_at_once = std::min(panels, ceil_div(sum_elements, 64 * Unit::columns));
    const index_t most = std::min({most_pixels, sum_elements / (panels_at_once * Unit::columns), rows * c.h.out});
    const BlockGrid grid = balanced_grid(c.images, c.v.out, c.h.out, most, threads);
    const index_t blocks = grid.blocks() * c.groups, parts = std::clamp<index_t>(threads / blocks, 1, panels);
    const WindowSlab layout(c, steps, grid.block_rows, grid.block_cols);
    const bool across_rows = layout.row / c.h.stride < ceil_div(grid.block_cols, 16) * 16;
    std::vector<index_t> at_a, at_b;
    for (const Tap& v : steps.v) {
        const index_t row = layout.row_offset(v.offset - steps.v[0].offset) * layout.pixel_pairs;
        for (index_t step = 0; step < steps.of_row; ++step) {
            at_a.push_back(row + step * Unit::pairs);
            at_b.push_back(static_cast<index_t>(at_b.size()) * Unit::pairs * Unit::columns);
        }
    }

    std::vector<Largest> largest(static_cast<std::size_t>(c.images));  // of the sums of each image
    const double task_ns = static_cast<double>(grid.block_rows * grid.block_cols * ceil_div(c.out_channels, parts)) *
                           static_cast<double>(c.reduction()) * fma_ns / 2;
    parallel_for(blocks * parts, task_ns, [&](index_t task) {
        const index_t part = task % parts, group = task / parts % c.groups;
        const Block block = grid.block(task / parts / c.groups);
        const index_t first_panel = share_begin(part, parts, panels), last_panel = share_begin(part + 1, parts, panels);
        const index_t pixels = block.rows() * block.width();
        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        index_t source = 0;
        for (Strip& strip : strips) {
            strip.source = source;
            source += layout.pixels(strip);
        }
        const Tiles tiles = cut_into_tiles(c, layout, block, strips, across_rows);
        Scratch<Bfloat16Pair> slab(Unit::parts * layout.part);
        Scratch<float> turned(2 * layout.part);  // as many terms as the slab has, at most
        Scratch<float> sums((last_panel - first_panel) * pixels * Unit::columns);
        float tile_sums[Unit::rows * Unit::columns];
        const UnitInUse in_use;

        for (index_t chunk = 0; chunk < steps.chunks; ++chunk) {
            const index_t first = chunk * steps.chunk_channels;
            const index_t channels = std::min(steps.chunk_channels, c.in_channels - first);
            for (const Strip& strip : strips) {
                fill_slab(c, steps, layout, block, strip, group, first, channels, turned.data(), slab.data());
            }
            for (index_t panel = first_panel; panel < last_panel; ++panel) {
                const index_t index = group * panels + panel, m = panel * Unit::columns;
                const auto columns = static_cast<int>(std::min<index_t>(Unit::columns, c.out_channels - m));
                const float* const bias = biases.data() + index * Unit::columns;
                float* const to = sums.data() + (panel - first_panel) * pixels * Unit::columns;
                const Unit::Operand b{weights.data() + (index * steps.chunks + chunk) * weight_size, at_b.data(),
                                      Unit::columns, weight_part};
                for (const Tile& tile : tiles.list) {
                    const Unit::Operand a{slab.data() + tile.source * layout.pixel_pairs, at_a.data(),
                                          c.h.stride * layout.pixel_pairs, layout.part};
                    unit.tile(static_cast<int>(tile.rows), columns, steps.count, a, b, tile_sums, false);
                    for (std::size_t i = 0; i < tile.pieces; ++i) {
                        const Piece& piece = tiles.pieces[tile.first_piece + i];
                        const float* const from = tile_sums + piece.row * Unit::columns;
                        largest[static_cast<std::size_t>(piece.image)].add_rows(from, piece.rows, columns);
                        unit.add_rows(piece.rows, from, bias, chunk > 0, c.relu && chunk + 1 == steps.chunks,
                                      to + piece.to * Unit::columns);
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
    return images_to_make_anew(largest, largest_weight);
}

}  // namespace npconv
