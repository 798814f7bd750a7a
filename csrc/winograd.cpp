#include "winograd.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// Vectors run along the channels here: pixels are turned over to [pixel][nr channels], so that a tile may lie anywhere
// and no lane is wasted at the edge of an image. In between, all is one matrix product for each of the size^2
// elements of a transformed tile:
//     sums (tiles x out channels) = pixels (tiles x in channels) * weights (in channels x out channels)

// Sizes of what is worked on at a time.
constexpr index_t pixel_elements = 96 << 10;  // transformed pixels of a task, in so many tiles at least:
constexpr index_t least_tiles = 28;
constexpr index_t least_tiles_of_many_weights = 64;
constexpr index_t too_many_weights = 4 << 20;   // more than are fetched as quickly as they are made
constexpr index_t scattered_tiles = 128;        // of an image, all in one task
constexpr index_t weight_channels = 128;        // input channels whose weights are transformed at a time
constexpr index_t gradient_channels = 64;       // output channels of a task of the weight gradient, and as many
                                                // input channels, of float64 half as many
constexpr index_t gradient_bytes = 1408 << 10;  // of what it holds, transformed

/// The pixels of tiles along an axis of an image, `length` pixels long: tile t has `size` from origin + t*step on. With
/// a spacing of d that is one of d phases, each of every d-th pixel: its pixels, and its tiles, are d times as far
/// apart.
struct TileAxis {
    index_t origin, step, size, length, spacing;

    index_t begin(index_t tile, index_t phase) const { return origin + phase + tile * step * spacing; }
    index_t reach() const { return (size - 1) * spacing + 1; }
};

/// The pixels behind some rows of tiles, as [pixel][nr]: those that the tiles read or make. Rows of tiles are counted
/// through the phases of all images; in a row, the tiles of all phases stand together.
class PixelBlock {
   public:
    /// Rows of one image, in the columns of the block; `first` is the first one's place in the block.
    struct Piece {
        Strip strip;
        index_t col, width, first;
    };
    std::vector<Piece> pieces;

    /// Where the pixels of a tile are: offsets[e] behind `first`. Those outside the image have one place behind all
    /// others.
    struct Tile {
        index_t first;
        const index_t* offsets;
    };

    PixelBlock(const PixelBlock&) = delete;  // tiles point into it
    PixelBlock& operator=(const PixelBlock&) = delete;
    PixelBlock(const Block& block, index_t tile_rows, TileAxis v, TileAxis h, int nr)
        : tiles_(static_cast<std::size_t>(block.rows() * block.width() * h.spacing)),
          offsets_((block.rows() * block.width() * h.spacing + 1) * v.size * h.size) {
        std::vector<Strip> strips;
        cut_into_strips(block, tile_rows, strips);
        const index_t left = std::clamp<index_t>(h.begin(block.col_begin, 0), 0, h.length);
        const index_t right =
            std::clamp<index_t>(h.begin(block.col_end - 1, h.spacing - 1) + h.reach(), left, h.length);
        const index_t width = right - left;
        // Tiles within the image share a list of offsets; each of the others has its own.
        index_t* list = offsets_.data();
        for (index_t y = 0; y < v.size; ++y) {
            for (index_t x = 0; x < h.size; ++x) *list++ = (y * width + x * h.spacing) * nr;
        }
        std::vector<index_t> tops;  // of each strip: how many of its rows are above the image
        for (const Strip& strip : strips) {
            const index_t first = v.begin(strip.row, strip.image % v.spacing),
                          rows = (strip.rows - 1) * v.step + v.size;
            const index_t above = std::min(ceil_div(std::max<index_t>(-first, 0), v.spacing), rows);
            const index_t inside = std::clamp(ceil_div(v.length - first, v.spacing), above, rows) - above;
            const index_t row = std::min(first + above * v.spacing, v.length);
            pieces.push_back({{strip.image / v.spacing, row, inside, 0, v.spacing}, left, width, pixels_});
            pixels_ += inside * width;
            tops.push_back(above);
        }
        Tile* tile = tiles_.data();
        const index_t* const shared = offsets_.data();
        const index_t outside = pixels_ * nr;
        const auto add_tile = [=, &tile, &list](const Piece& piece, index_t top, index_t left_of_tile) {
            const bool rows_inside = top >= 0 && top + v.size <= piece.strip.rows;
            if (rows_inside && left_of_tile >= 0 && left_of_tile + h.reach() <= width) {
                *tile++ = {(piece.first + top * width + left_of_tile) * nr, shared};
                return;
            }
            *tile++ = {0, list};
            for (index_t y = top; y < top + v.size; ++y, list += h.size) {
                const bool inside = y >= 0 && y < piece.strip.rows;
                const index_t row = inside ? (piece.first + y * width + left_of_tile) * nr : outside;
                const index_t step = inside ? h.spacing * nr : 0;
                for (index_t x = 0; x < h.size; ++x) list[x] = row + x * step;
            }
            for (index_t x = 0, column = left_of_tile; x < h.size; ++x, column += h.spacing) {
                if (column >= 0 && column < width) continue;
                for (index_t y = 0; y < v.size; ++y) list[(y - v.size) * h.size + x] = outside;
            }
        };
        for (std::size_t i = 0; i < strips.size(); ++i) {
            for (index_t ty = 0; ty < strips[i].rows; ++ty) {
                for (index_t tx = block.col_begin; tx < block.col_end; ++tx) {
                    for (index_t phase = 0; phase < h.spacing; ++phase) {
                        add_tile(pieces[i], ty * v.step - tops[i], h.begin(tx, phase) - left);
                    }
                }
            }
        }
    }

    index_t pixels() const { return pixels_; }
    const std::vector<Tile>& tiles() const { return tiles_; }

   private:
    index_t pixels_ = 0;
    std::vector<Tile> tiles_;
    Scratch<index_t> offsets_;
};

/// Channels of some images, packed and transformed: to[steps[e] + t*ld + c] for element e of tile t. Unless `sums` is
/// null, the sum of every channel's pixels is added to it.
template <class T>
void transform_pixels(const PixelBlock& block, const PackPixels<T>& images, index_t channel, index_t channels,
                      typename WinogradTransforms<T>::Transform transform, T* to, const std::vector<index_t>& steps,
                      index_t ld, T* sums = nullptr) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    Scratch<T> packed((block.pixels() + 1 + kernel.lanes) * nr);
    T* const outside = packed.data() + block.pixels() * nr;
    for (index_t c = 0; c < channels; c += nr) {
        const index_t count = std::min<index_t>(nr, channels - c);
        for (const PixelBlock::Piece& piece : block.pieces) {
            images(piece.strip, piece.col, piece.width, channel + c, count, packed.data() + piece.first * nr);
        }
        std::fill(outside, outside + nr, T(0));  // last: behind each piece more may have been written
        if (sums) add_pixels(packed.data(), block.pixels(), count, sums + c);
        T* to_tile = to + c;
        for (const PixelBlock::Tile& tile : block.tiles()) {
            transform(packed.data() + tile.first, tile.offsets, count, to_tile, steps.data(), nullptr);
            to_tile += ld;
        }
    }
}

/// Where the taps of a kernel lie among its weights, row by row and from the pixel on that they meet first; or, for the
/// formulas transposed, the other way round.
std::vector<index_t> taps_of(const Axis& v, const Axis& h, index_t kw, bool backwards) {
    const auto in_order = [&](const Axis& axis) {
        std::vector<Tap> taps = axis.taps;
        if ((taps.front().offset > taps.back().offset) != backwards) std::reverse(taps.begin(), taps.end());
        return taps;
    };
    std::vector<index_t> taps;
    for (const Tap& row : in_order(v)) {
        for (const Tap& column : in_order(h)) taps.push_back(row.index * kw + column.index);
    }
    return taps;
}

/// The weights of `count` <= nr output channels from m on and kc input channels from k on, transformed:
/// to[e*step + i*nr + j] for input channel k + i and output channel m + j.
template <class T>
void transform_weights(const Correlation<T>& c, index_t group, index_t m, index_t count, index_t k, index_t kc,
                       const std::vector<index_t>& taps, index_t elements,
                       typename WinogradTransforms<T>::Transform transform, T* to, index_t step) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t nr = kernel.nr, size = c.kernel_taps;
    const index_t columns = ceil_div(count, kernel.lanes) * kernel.lanes;
    const T* const from = c.weight + group * c.weight_group + m * c.weight_m + k * c.weight_c;
    std::vector<index_t> places, steps;
    for (const index_t tap : taps) places.push_back(tap * nr);
    for (index_t e = 0; e < elements; ++e) steps.push_back(e * step);
    constexpr index_t at_a_time = 16;
    Scratch<T> raw((at_a_time * size + kernel.lanes) * nr);
    const T* const end = c.weight + c.groups * c.weight_group;
    for (index_t i = 0; i < kc; i += at_a_time) {
        const index_t channels = std::min(at_a_time, kc - i);
        if (c.weight_c == size) {  // they follow each other
            kernel.pack_transposed(from + i * size, c.weight_m, count, channels * size, raw.data(), nr, columns);
        } else {
            for (index_t j = 0; j < channels; ++j) {
                // Whole vectors are quicker to read: what follows the taps is written first and then overwritten.
                const T* const row = from + (i + j) * c.weight_c;
                const index_t width = ceil_div(size, kernel.lanes) * kernel.lanes;
                const bool whole = row + (count - 1) * c.weight_m + width <= end;
                kernel.pack_transposed(row, c.weight_m, count, whole ? width : size, raw.data() + j * size * nr, nr,
                                       columns);
            }
        }
        for (index_t j = 0; j < channels; ++j) {
            transform(raw.data() + j * size * nr, places.data(), columns, to + (i + j) * nr, steps.data(), nullptr);
        }
    }
}

/// From one tap to the next: the dilation.
index_t spacing_of(const Axis& axis) {
    return axis.taps.size() < 2 ? 1 : std::abs(axis.taps[1].offset - axis.taps[0].offset);
}

/// A little more than n: rows that are a power of two apart would all meet in the same lines of the L1 cache.
index_t off_power_of_two(index_t n, index_t lanes) { return ceil_div(n, lanes) * lanes + lanes; }

}  // namespace

template <class T>
void winograd_correlate(const Correlation<T>& c, const WinogradForm& form, const PackPixels<T>& images,
                        const StorePixels<T>& results, index_t window_rows) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const WinogradTransforms<T>& transforms = kernel.winograd[&form - winograd_forms];
    const int nr = kernel.nr, tile = form.tile, pitch = form.stride * tile, size = form.size();
    const index_t elements = size * size;
    if (c.images == 0) return;
    const index_t ld = off_power_of_two(c.in_channels, kernel.lanes);

    // Tiles of the result gather what they read. Or else tiles of the input scatter what they make, by the same
    // formulas transposed: where the result is the larger of the two, but all within reach, they are fewer. Then an
    // image's tiles, whose results overlap, belong to one task.
    const auto first_and_last = [](const Axis& axis) {
        return std::minmax(axis.taps.front().offset, axis.taps.back().offset);
    };
    const auto within_reach = [&](const Axis& axis) {
        const index_t from = -first_and_last(axis).second;
        return from <= 0 && axis.out <= from + ceil_div(axis.in, tile) * tile + form.kernel - 1;
    };
    const index_t in_tiles = ceil_div(c.v.in, tile) * ceil_div(c.h.in, tile);
    const index_t out_tiles = ceil_div(c.v.out, tile) * ceil_div(c.h.out, tile);
    const Pair spacing{spacing_of(c.v), spacing_of(c.h)};
    const bool adjoining = form.stride == 1 && spacing.h == 1 && spacing.w == 1;
    const bool scatter = adjoining && 6 * in_tiles <= 5 * out_tiles && in_tiles <= scattered_tiles &&
                         within_reach(c.v) && within_reach(c.h);
    const auto origin_of = [&](const Axis& axis) {
        return scatter ? -first_and_last(axis).second : first_and_last(axis).first;
    };
    const index_t origin_v = origin_of(c.v), origin_h = origin_of(c.h);
    const std::vector<index_t> taps = taps_of(c.v, c.h, c.kw, scatter);

    const index_t panels = ceil_div(c.out_channels, nr), threads = get_num_threads();
    const index_t steps = ceil_div(c.in_channels, weight_channels), kc_most = ceil_div(c.in_channels, steps);
    const index_t weight_step = off_power_of_two(kc_most * nr, kernel.lanes), weight_size = elements * weight_step;
    const index_t all_weight_size = c.groups * panels * steps * weight_size;

    // A task has some rows of tiles and, where there are few of those, a part of the output channels.
    const index_t tiles_v = tiles_of_phase(scatter ? c.v.in : c.v.out, spacing.h, tile);
    const index_t tiles_h = tiles_of_phase(scatter ? c.h.in : c.h.out, spacing.w, tile);
    // So many rows of an image's tiles stay together: their results hold whole windows.
    const index_t rows_together = std::max<index_t>(window_rows, 1);
    const index_t unit = scatter ? tiles_v : rows_together / std::gcd(rows_together, index_t(tile));
    const index_t units = ceil_div(tiles_v, unit);
    const index_t least = all_weight_size > many_weights ? least_tiles_of_many_weights : least_tiles;
    index_t most = std::max<index_t>(std::max(pixel_elements / (elements * ld), least) / (unit * spacing.w), 1);
    if (tiles_h <= 2 * most) most = std::max(most, tiles_h);  // whole rows: their pixels follow each other in memory
    const bool whole_rows = scatter || window_rows > 0;
    const BlockGrid grid = balanced_grid(c.images * spacing.h, units, tiles_h, most, threads, whole_rows);
    const auto first_row = [&](index_t i) { return i / units * tiles_v + std::min(i % units * unit, tiles_v); };
    const index_t blocks = grid.blocks() * c.groups, parts = std::clamp<index_t>(threads / blocks, 1, panels);
    const index_t most_tiles = grid.block_rows * unit * grid.block_cols * spacing.w;
    const index_t pixel_step = off_power_of_two(most_tiles * ld, kernel.lanes);
    const index_t sum_step = off_power_of_two(most_tiles * nr, kernel.lanes);
    std::vector<index_t> pixel_steps, sum_steps;
    for (index_t e = 0; e < elements; ++e) {
        pixel_steps.push_back(e * pixel_step);
        sum_steps.push_back(e * sum_step);
    }
    index_t rows_of_a[max_tile_rows];
    for (index_t i = 0; i < max_tile_rows; ++i) rows_of_a[i] = i * ld;

    // Weights that several blocks want are transformed once, unless it is quicker to do it again than to fetch them.
    const bool at_once = grid.blocks() > threads && all_weight_size <= too_many_weights;
    Scratch<T> all_weights(at_once ? all_weight_size : 0);
    const auto transform_panel = [&](index_t group, index_t panel, index_t step, T* to) {
        const index_t m = panel * nr, count = std::min<index_t>(nr, c.out_channels - m);
        const index_t k = step * kc_most, kc = std::min(kc_most, c.in_channels - k);
        transform_weights(c, group, m, count, k, kc, taps, elements, transforms.filter, to, weight_step);
    };
    const double weights_ns = static_cast<double>(weight_size) * element_ns;
    parallel_for(at_once ? c.groups * panels * steps : 0, weights_ns, [&](index_t task) {
        transform_panel(task / steps / panels, task / steps % panels, task % steps,
                        all_weights.data() + task * weight_size);
    });

    const double task_ns = static_cast<double>(most_tiles * elements * c.in_channels) *
                           static_cast<double>(c.out_channels) * fma_ns / static_cast<double>(parts);
    parallel_for(blocks * parts, task_ns, [&](index_t task) {
        const index_t part = task % parts, group = task / parts % c.groups;
        Block block = grid.block(task / parts / c.groups);
        block.row_begin = first_row(block.row_begin);
        block.row_end = first_row(block.row_end);
        const index_t tiles = block.rows() * block.width() * spacing.w, row_tiles = ceil_div(tiles, kernel.mr);
        const auto pixels_of = [&](bool read, index_t height, index_t width) {
            const auto axis = [&](index_t origin, index_t length, index_t apart) {
                return read == scatter ? TileAxis{0, tile, tile, length, apart}
                                       : TileAxis{origin, pitch, size, length, apart};
            };
            return PixelBlock(block, tiles_v, axis(origin_v, height, spacing.h), axis(origin_h, width, spacing.w), nr);
        };
        const PixelBlock in = pixels_of(true, c.v.in, c.h.in), out = pixels_of(false, c.v.out, c.h.out);
        Scratch<T> pixels(elements * pixel_step);
        transform_pixels(in, images, group * c.in_channels, c.in_channels,
                         scatter ? transforms.output_gradient : transforms.input, pixels.data(), pixel_steps, ld);

        Scratch<T> own_weights(at_once ? 0 : weight_size), sums(elements * sum_step), image((out.pixels() + 1) * nr);
        T bias[max_tile_columns] = {};
        for (index_t panel = share_begin(part, parts, panels); panel < share_begin(part + 1, parts, panels); ++panel) {
            const index_t m = panel * nr, count = std::min<index_t>(nr, c.out_channels - m);
            for (index_t step = 0; step < steps; ++step) {
                const index_t k = step * kc_most, kc = std::min(kc_most, c.in_channels - k);
                if (!at_once) transform_panel(group, panel, step, own_weights.data());
                const T* const weights =
                    at_once ? all_weights.data() + ((group * panels + panel) * steps + step) * weight_size
                            : own_weights.data();
                for (index_t e = 0; e < elements; ++e) {
                    for (index_t i = 0; i < row_tiles; ++i) {
                        const index_t t = share_begin(i, row_tiles, tiles);
                        const index_t rows = share_begin(i + 1, row_tiles, tiles) - t;
                        const auto gemm_tile =
                            count <= kernel.lanes ? kernel.narrow_row_gemm_tile[rows] : kernel.row_gemm_tile[rows];
                        gemm_tile(1, kc, pixels.data() + e * pixel_step + t * ld + k, rows_of_a, 0,
                                  weights + e * weight_step, nr, sums.data() + e * sum_step + t * nr, nr, k > 0);
                    }
                }
            }
            const index_t channel = group * c.out_channels + m;
            if (c.bias) std::copy(c.bias + channel, c.bias + channel + count, bias);
            for (index_t i = 0; scatter && i <= out.pixels(); ++i) std::copy(bias, bias + nr, image.data() + i * nr);
            const auto transform = scatter  ? transforms.input_gradient
                                   : c.relu ? transforms.output_relu
                                            : transforms.output;
            const T* sums_of_tile = sums.data();
            for (const PixelBlock::Tile& to : out.tiles()) {
                transform(sums_of_tile, sum_steps.data(), count, image.data() + to.first, to.offsets, bias);
                sums_of_tile += nr;
            }
            if (scatter && c.relu) kernel.relu_forward(image.data(), image.data(), out.pixels() * nr);
            for (const PixelBlock::Piece& piece : out.pieces) {
                results(piece.strip, piece.col, piece.width, channel, count, image.data() + piece.first * nr);
            }
        }
    });
}

template <class T>
void winograd_backward_weight(const ConvShape& s, const WinogradForm& form, const PackPixels<T>& dy,
                              const PackPixels<T>& images, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const WinogradTransforms<T>& transforms = kernel.winograd[&form - winograd_forms];
    const int nr = kernel.nr, tile = form.tile;
    const index_t elements = form.size() * form.size(), taps = form.kernel * form.kernel;
    const index_t cg = s.cg(), kg = s.kg(), size = s.k * cg * taps;

    // A task sums the products of some input channels with some output channels over a run of blocks of tiles; the
    // sums of a few runs, which depend on the shape alone, are then added in order.
    const index_t k_at_once = gradient_channels, c_at_once = gradient_channels * sizeof(float) / sizeof(T);
    const index_t c_chunks = ceil_div(cg, c_at_once), k_chunks = ceil_div(kg, k_at_once);
    const index_t ld_x = off_power_of_two(std::min(cg, c_at_once), kernel.lanes);
    const index_t ld_dy = ceil_div(std::min(kg, k_at_once), nr) * nr + kernel.lanes;
    const index_t sum_step = off_power_of_two(std::min(cg, c_at_once) * ld_dy, kernel.lanes);
    const index_t held = gradient_bytes / index_t(sizeof(T)) / elements;
    const index_t tiles_at_once = std::clamp<index_t>((held - sum_step) / (ld_x + ld_dy), 16, 64);
    const Pair d = s.dilation;
    const BlockGrid grid(s.n * d.h, tiles_of_phase(s.oh, d.h, tile), tiles_of_phase(s.ow, d.w, tile),
                         std::max<index_t>(tiles_at_once / d.w, 1));
    // Runs of 2 to 8 blocks each, but for memory; a power of two of them, so that threads share them evenly.
    const index_t few = std::min(16 / (s.groups * c_chunks * k_chunks), ceil_div(grid.blocks(), 2));
    const index_t memory = std::max<index_t>(1 << 20, 3 * size) / size;
    const index_t wanted = std::min({std::max(few, grid.blocks() / 8), memory, index_t(64)});
    index_t splits = 1;
    while (2 * splits <= wanted) splits *= 2;
    const index_t most_tiles = grid.block_rows * grid.block_cols * d.w;
    const index_t x_step = off_power_of_two(most_tiles * ld_x, kernel.lanes);
    const index_t dy_step = off_power_of_two(most_tiles * ld_dy, kernel.lanes);
    std::vector<index_t> x_steps, dy_steps, sum_steps, row_of_dy;
    for (index_t e = 0; e < elements; ++e) {
        x_steps.push_back(e * x_step);
        dy_steps.push_back(e * dy_step);
        sum_steps.push_back(e * sum_step);
    }
    for (index_t t = 0; t < most_tiles; ++t) row_of_dy.push_back(t * ld_dy);

    Scratch<T> partials((splits - 1) * size), bias_partials(splits * s.k);
    const index_t tasks = splits * s.groups * c_chunks * k_chunks;
    const double task_ns = static_cast<double>(grid.blocks() * most_tiles * elements) * static_cast<double>(s.k * cg) *
                           fma_ns / static_cast<double>(tasks);
    parallel_for(tasks, task_ns, [&](index_t task) {
        const index_t k_chunk = task % k_chunks, c_chunk = task / k_chunks % c_chunks;
        const index_t group = task / k_chunks / c_chunks % s.groups, split = task / k_chunks / c_chunks / s.groups;
        const index_t c0 = share_begin(c_chunk, c_chunks, cg), channels = share_begin(c_chunk + 1, c_chunks, cg) - c0;
        const index_t k0 = share_begin(k_chunk, k_chunks, kg), filters = share_begin(k_chunk + 1, k_chunks, kg) - k0;
        Scratch<T> pixels(elements * x_step), gradients(elements * dy_step), sums(elements * sum_step);
        T bias_sum[gradient_channels + max_tile_columns] = {};

        const index_t first = share_begin(split, splits, grid.blocks());
        for (index_t index = first; index < share_begin(split + 1, splits, grid.blocks()); ++index) {
            const Block block = grid.block(index);
            const index_t tiles = block.rows() * block.width() * d.w;
            const index_t pitch = form.stride * tile, reach = form.size();
            const PixelBlock in(block, grid.image_rows, {-s.pad.top, pitch, reach, s.h, d.h},
                                {-s.pad.left, pitch, reach, s.w, d.w}, nr);
            transform_pixels(in, images, group * cg + c0, channels, transforms.input, pixels.data(), x_steps, ld_x);
            const PixelBlock out(block, grid.image_rows, {0, tile, tile, s.oh, d.h}, {0, tile, tile, s.ow, d.w}, nr);
            transform_pixels(out, dy, group * kg + k0, filters, transforms.output_gradient, gradients.data(), dy_steps,
                             ld_dy, dbias && c_chunk == 0 ? bias_sum : nullptr);

            const index_t row_tiles = ceil_div(channels, kernel.mr);
            for (index_t e = 0; e < elements; ++e) {
                for (index_t k = 0; k < filters; k += nr) {
                    for (index_t i = 0; i < row_tiles; ++i) {
                        const index_t c = share_begin(i, row_tiles, channels);
                        const index_t rows = share_begin(i + 1, row_tiles, channels) - c;
                        const bool narrow = filters - k <= kernel.lanes;
                        const auto gemm_tile = narrow ? kernel.narrow_gemm_tile[rows] : kernel.gemm_tile[rows];
                        gemm_tile(tiles, pixels.data() + e * x_step + c, ld_x, gradients.data() + e * dy_step + k,
                                  row_of_dy.data(), sums.data() + e * sum_step + c * ld_dy + k, ld_dy,
                                  narrow ? kernel.lanes : nr, nullptr, index > first, false, pixels.data(), 0);
                    }
                }
            }
        }

        // Transform the sums back, and turn them over into (k, channel, tap).
        T* const to = (split == 0 ? dweight : partials.data() + (split - 1) * size) + (group * kg + k0) * cg * taps;
        constexpr index_t at_a_time = 16;
        Scratch<T> weights(at_a_time * taps * nr);
        std::vector<index_t> places;
        for (index_t i = 0; i < taps; ++i) places.push_back(i * nr);
        for (index_t k = 0; k < filters; k += nr) {
            const index_t count = std::min<index_t>(nr, filters - k);
            for (index_t c = 0; c < channels; c += at_a_time) {
                const index_t some = std::min(at_a_time, channels - c);
                for (index_t i = 0; i < some; ++i) {
                    transforms.filter_gradient(sums.data() + (c + i) * ld_dy + k, sum_steps.data(), count,
                                               weights.data() + i * taps * nr, places.data(), nullptr);
                }
                kernel.pack_transposed(weights.data(), nr, some * taps, count, to + (k * cg + c0 + c) * taps, cg * taps,
                                       some * taps);
            }
        }
        if (dbias && c_chunk == 0) {
            std::copy(bias_sum, bias_sum + filters, bias_partials.data() + split * s.k + group * kg + k0);
        }
    });
    parallel_for_range(size, static_cast<double>(splits) * element_ns, [&](index_t begin, index_t end) {
        for (index_t split = 1; split < splits; ++split) {
            const T* const part = partials.data() + (split - 1) * size;
            for (index_t i = begin; i < end; ++i) dweight[i] += part[i];
        }
    });
    for (index_t k = 0; dbias && k < s.k; ++k) {
        dbias[k] = 0;
        for (index_t split = 0; split < splits; ++split) dbias[k] += bias_partials[split * s.k + k];
    }
}

template void winograd_correlate(const Correlation<float>&, const WinogradForm&, const PackPixels<float>&,
                                 const StorePixels<float>&, index_t);
template void winograd_correlate(const Correlation<double>&, const WinogradForm&, const PackPixels<double>&,
                                 const StorePixels<double>&, index_t);
template void winograd_backward_weight(const ConvShape&, const WinogradForm&, const PackPixels<float>&,
                                       const PackPixels<float>&, float*, float*);
template void winograd_backward_weight(const ConvShape&, const WinogradForm&, const PackPixels<double>&,
                                       const PackPixels<double>&, double*, double*);

}  // namespace npconv
