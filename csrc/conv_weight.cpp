// The weight gradient of convolution, and the operators that run convolution, ReLU and max pooling as one.
#include <algorithm>
#include <vector>

#include "conv.hpp"
#include "conv_batch.hpp"
#include "conv_channels.hpp"
#include "conv_planes.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "slab.hpp"
#include "winograd.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t weight_grad_pixels = 256;  // output pixels that the weight gradient sums at a time
constexpr index_t cache_elements = 1 << 17;  // what stays in the L2 cache between convolution and pooling

// dweight^T is a GEMM too: its rows are the (channel, tap) pairs, its columns the output channels, and the reduction
// runs over all output pixels. The left operand is read from the slab, the right one is dy, transposed block by block
// into [pixel][nr]. The bias gradient is one more row, whose "input" is 1 everywhere.
template <class T>
void backward_weight(const ConvShape& s, const PackDy<T>& pack_dy, const T* x, T* dweight, T* dbias,
                     Algorithm algorithm) {
    const int tile = winograd_weight_tile(s, algorithm);
    if (tile > 0 && dweight && s.n > 0) {
        winograd_backward_weight(s, tile, pack_dy, x, dweight, dbias);
        return;
    }
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    const index_t taps = s.kh * s.kw, in_plane = s.h * s.w;
    const index_t bias_rows = dbias ? 1 : 0, tap_rows = dweight ? s.cg() * taps : 0;
    const index_t panels = ceil_div(s.kg(), nr), ld = panels * nr;
    const index_t partial_size = (bias_rows + tap_rows) * ld;
    if (partial_size == 0) return;

    // The pixels are cut into blocks, and the blocks into `splits` runs that are summed apart and then added in
    // order. All this depends on the shape alone, or the sums would depend on the number of threads.
    const index_t width = std::min(s.ow, weight_grad_pixels), col_blocks = ceil_div(s.ow, width);
    const index_t rows = s.n * s.oh;
    const index_t block_rows = std::clamp<index_t>(
        std::min(weight_grad_pixels / width, rows_within(v, h, width, slab_elements)), 1, std::max<index_t>(rows, 1));
    const index_t blocks = ceil_div(rows, block_rows) * col_blocks;
    const index_t most_partials = std::max<index_t>(1 << 20, 3 * s.k * s.cg() * taps) / (s.groups * partial_size);
    const index_t splits = std::clamp<index_t>(std::min(most_partials, blocks), 1, 64);

    // The channels are dealt to tasks in chunks; each sum is the same however they are.
    const SlabLayout layout(v, h, block_rows, width);
    const index_t most_channels = std::clamp<index_t>((64 << 10) / layout.channel_stride(), 1, s.cg());
    const index_t wanted_chunks = ceil_div(4 * get_num_threads(), splits * s.groups);
    const index_t chunks =
        dweight ? std::max(ceil_div(s.cg(), most_channels), std::min(wanted_chunks, ceil_div(s.cg(), 16))) : 1;

    Scratch<T> partials(splits * s.groups * partial_size);
    const double task_ns = static_cast<double>(rows * s.ow * s.kg()) * static_cast<double>(bias_rows + tap_rows) *
                           fma_ns / static_cast<double>(splits * chunks);
    parallel_for(splits * s.groups * chunks, task_ns, [&](index_t task) {
        const index_t chunk = task % chunks, group = task / chunks % s.groups, split = task / chunks / s.groups;
        const index_t channel = share_begin(chunk, chunks, s.cg());
        const index_t channels = dweight ? share_begin(chunk + 1, chunks, s.cg()) - channel : 0;
        const bool with_bias = dbias && chunk == 0;
        const index_t chunk_rows = channels * taps + (with_bias ? 1 : 0);
        T* const sums = partials.data() + (split * s.groups + group) * partial_size +
                        (with_bias ? 0 : bias_rows + channel * taps) * ld;
        std::fill(sums, sums + chunk_rows * ld, T(0));

        // Where the bias' row of ones lies: behind the slab and what fill() may write behind it.
        const index_t ones = layout.size(channels) + max_tile_columns;
        Scratch<T> slab(ones + layout.channel_stride());
        if (with_bias) std::fill(slab.data() + ones, slab.data() + ones + layout.channel_stride(), T(1));
        std::vector<index_t> in_row;
        if (with_bias) in_row.push_back(ones);
        for (index_t c = 0; c < channels; ++c) {
            for (const Tap& tv : v.taps) {
                for (const Tap& th : h.taps) in_row.push_back(c * layout.channel_stride() + layout.tap_offset(tv, th));
            }
        }
        Scratch<T> dy_panel((block_rows * width + 1) * nr);  // pack_dy may write one pixel behind
        std::vector<Strip> strips;

        const index_t last_block = share_begin(split + 1, splits, blocks);
        for (index_t index = share_begin(split, splits, blocks); index < last_block; ++index) {
            const index_t row = index / col_blocks * block_rows, col = index % col_blocks * width;
            const Block block{row, std::min(row + block_rows, rows), col, std::min(col + width, s.ow)};
            cut_into_strips(block, s.oh, strips);
            layout.place(strips);
            layout.fill(block, strips, x + (group * s.cg() + channel) * in_plane, s.c * in_plane, channels, T(0),
                        slab.data());
            for (index_t panel = 0; panel < panels; ++panel) {
                const index_t k = panel * nr, k_count = std::min<index_t>(nr, s.kg() - k);
                T* packed = dy_panel.data();
                for (const Strip& strip : strips) {
                    pack_dy(strip, col, block.width(), group * s.kg() + k, k_count, packed);
                    packed += strip.rows * block.width() * nr;
                }
                const index_t tiles = ceil_div(chunk_rows, kernel.mr);
                for (index_t tile = 0; tile < tiles; ++tile) {
                    const index_t r = share_begin(tile, tiles, chunk_rows);
                    const index_t tile_rows = share_begin(tile + 1, tiles, chunk_rows) - r;
                    const auto grad_tile = k_count <= kernel.lanes ? kernel.narrow_row_gemm_tile[tile_rows]
                                                                   : kernel.row_gemm_tile[tile_rows];
                    packed = dy_panel.data();
                    for (const Strip& strip : strips) {
                        grad_tile(strip.rows, block.width(), slab.data() + strip.source, in_row.data() + r,
                                  layout.width(), packed, nr, sums + r * ld + k, ld, true);
                        packed += strip.rows * block.width() * nr;
                    }
                }
            }
        }
    });

    // Add the partial sums in order, turn the result over into dweight (k, channel, tap).
    const double sum_ns = static_cast<double>(splits * (bias_rows + tap_rows) * nr) * element_ns;
    parallel_for(s.groups * panels, sum_ns, [&](index_t task) {
        const index_t group = task / panels, k = task % panels * nr, k_count = std::min<index_t>(nr, s.kg() - k);
        T* const total = partials.data() + group * partial_size + k;
        for (index_t split = 1; split < splits; ++split) {
            const T* part = total + split * s.groups * partial_size;
            for (index_t r = 0; r < bias_rows + tap_rows; ++r) {
                for (index_t j = 0; j < nr; ++j) total[r * ld + j] += part[r * ld + j];
            }
        }
        if (dbias) std::copy(total, total + k_count, dbias + group * s.kg() + k);
        if (dweight) {
            kernel.pack_transposed(total + bias_rows * ld, ld, tap_rows, k_count,
                                   dweight + (group * s.kg() + k) * tap_rows, tap_rows, tap_rows);
        }
    });
}

/// Adds what gradients(dweight, dbias) makes of other images.
template <class T, class Gradients>
void add_gradients(const ConvShape& s, T* dweight, T* dbias, const Gradients& gradients) {
    const index_t size = s.k * s.cg() * s.kh * s.kw;
    Scratch<T> more_dweight(dweight ? size : 0), more_dbias(dbias ? s.k : 0);
    gradients(dweight ? more_dweight.data() : nullptr, dbias ? more_dbias.data() : nullptr);
    for (index_t i = 0; dweight && i < size; ++i) dweight[i] += more_dweight[i];
    for (index_t k = 0; dbias && k < s.k; ++k) dbias[k] += more_dbias[k];
}

}  // namespace

template <class T>
void conv2d_backward_weight(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias,
                            Algorithm algorithm) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    if (const index_t batch = images_by_batch<T>(shape, algorithm, winograd_weight_tile(shape, algorithm))) {
        conv2d_backward_weight_by_batch<T>(with_images(shape, batch), dy, nullptr, nullptr, x, dweight, dbias);
        if (batch == shape.n) return;
        add_gradients(shape, dweight, dbias, [&](T* more_dweight, T* more_dbias) {
            conv2d_backward_weight(with_images(shape, shape.n - batch), dy + batch * shape.k * shape.oh * shape.ow,
                                   x + batch * shape.c * shape.h * shape.w, more_dweight, more_dbias, algorithm);
        });
        return;
    }
    const ConvShape s = in_one_row(shape);
    const index_t plane = s.oh * s.ow;
    if (weight_suits_planes(s)) {
        const auto plane_of = [&](index_t image, index_t channel, T* buffer) -> const T* {
            const T* const from = dy + (image * s.k + channel) * plane;
            const bool readable = dy + s.n * s.k * plane - from >= plane + kernel.lanes;  // a vector behind it
            return readable ? from : std::copy(from, from + plane, buffer) - plane;
        };
        conv2d_backward_weight_by_planes<T>(s, plane_of, x, dweight, dbias);
        return;
    }
    const auto pack_dy = [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                             T* packed) {
        const T* from = dy + (strip.image * s.k + channel) * plane + strip.row * s.ow + col;
        // Rows of full width follow each other in dy as they do in the panel.
        const index_t runs = width == s.ow ? 1 : strip.rows, run = strip.rows * width / runs;
        for (index_t y = 0; y < runs; ++y) {
            kernel.pack_transposed(from + y * s.ow, plane, count, run, packed + y * run * kernel.nr, kernel.nr,
                                   kernel.nr);
        }
    };
    backward_weight<T>(s, pack_dy, x, dweight, dbias, algorithm);
}

template <class T>
void conv2d_relu_max_pool2d_forward(const ConvShape& conv, const PoolShape& pool, const T* x, const T* weight,
                                    const T* bias, T* y, std::int32_t* indices) {
    // Where the sums of convolution lie as [pixel][channel], in the same order as they would otherwise have, pooling
    // takes them from there.
    const Correlation<T> correlation = forward_correlation<T>(conv, x, weight, bias, nullptr);
    const bool fills_vectors = conv.kg() >= std::max(8, kernels_of<T>().lanes);
    const int tile = winograd_tile(conv, Algorithm::automatic);
    const bool same_bits = suits_channels(correlation) || correlation.reduction() <= 256;
    const index_t batch = windows_inside(pool) ? images_by_batch<T>(conv, Algorithm::automatic, tile) : 0;
    if (batch > 0) {
        conv2d_forward_by_batch(with_images(conv, batch), x, weight, bias, false, &pool, y, indices);
        if (batch == conv.n) return;
        PoolShape rest = pool;
        rest.n = conv.n - batch;
        const index_t done = batch * pool.c * pool.oh * pool.ow;
        conv2d_relu_max_pool2d_forward(with_images(conv, rest.n), rest, x + batch * conv.c * conv.h * conv.w, weight,
                                       bias, y + done, indices ? indices + done : nullptr);
        return;
    }
    if (tile == 0 && tiles_input(pool) && same_bits && fills_vectors) {
        const Pooled<T> pooled{pool, y, indices};
        correlate_along_channels(correlation, &pooled);
        return;
    }
    const index_t between = conv.k * conv.oh * conv.ow, threads = get_num_threads();
    index_t images = std::clamp<index_t>(cache_elements / between, 1, std::max<index_t>(conv.n, 1));
    images = std::min(images, std::max<index_t>(conv.n / (4 * threads), 1));
    const bool inside = windows_inside(pool) && pool.stride.w <= 2;
    const auto some_images = [&](index_t task) {
        const index_t first = task * images, in = conv.c * conv.h * conv.w, out = pool.c * pool.oh * pool.ow;
        ConvShape part_of_conv = conv;
        PoolShape part_of_pool = pool;
        part_of_conv.n = part_of_pool.n = std::min(images, conv.n - first);
        std::int32_t* const at = indices ? indices + first * out : nullptr;
        Correlation<T> part = forward_correlation<T>(part_of_conv, x + first * in, weight, bias, nullptr);
        if (!inside) {
            Scratch<T> z(part_of_conv.n * between);
            conv2d_forward(part_of_conv, x + first * in, weight, bias, z.data());
            max_pool2d_forward(part_of_pool, z.data(), y + first * out, at, true);
            return;
        }
        // In correlate_gemm, rows as far apart as in the slab: then a whole tile is stored at a time, whatever rows end
        // in it.
        part.loose = tile == 0 && !suits_channels(part) && !suits_planes(part);
        if (part.loose) part.out_w += part.h.reach;
        Scratch<T> z(part_of_conv.n * conv.k * conv.oh * part.out_w + 4 * max_tile_columns);
        part.out = z.data();
        correlate(part, tile);
        relu_max_pool2d_forward(part_of_pool, z.data(), part.out_w, y + first * out, at);
    };
    const index_t tasks = ceil_div(conv.n, images);
    const double task_ns =
        static_cast<double>(images * between) * (static_cast<double>(conv.cg() * conv.kh * conv.kw) * fma_ns + 1);
    if (tasks >= threads) {
        parallel_for(tasks, task_ns, some_images);
    } else {  // too few for the threads: they share each image instead
        for (index_t task = 0; task < tasks; ++task) some_images(task);
    }
}

template <class T>
void conv2d_relu_max_pool2d_backward_weight(const ConvShape& conv, const PoolShape& pool, const T* dy,
                                            const std::int32_t* indices, const T* x, T* dweight, T* dbias) {
    const Algorithm automatic = Algorithm::automatic;
    if (const index_t batch = images_by_batch<T>(conv, automatic, winograd_weight_tile(conv, automatic))) {
        conv2d_backward_weight_by_batch(with_images(conv, batch), dy, &pool, indices, x, dweight, dbias);
        if (batch == conv.n) return;
        add_gradients(conv, dweight, dbias, [&](T* more_dweight, T* more_dbias) {
            PoolShape rest = pool;
            rest.n = conv.n - batch;
            const index_t done = batch * pool.c * pool.oh * pool.ow;
            conv2d_relu_max_pool2d_backward_weight(with_images(conv, rest.n), rest, dy + done, indices + done,
                                                   x + batch * conv.c * conv.h * conv.w, more_dweight, more_dbias);
        });
        return;
    }
    if (weight_suits_planes(conv)) {
        const auto plane_of = [&](index_t image, index_t channel, T* buffer) {
            const index_t at = (image * conv.k + channel) * pool.oh * pool.ow;
            max_pool2d_backward(1, conv.oh * conv.ow, pool.oh * pool.ow, dy + at, indices + at, buffer);
            return static_cast<const T*>(buffer);
        };
        conv2d_backward_weight_by_planes<T>(conv, plane_of, x, dweight, dbias);
        return;
    }
    const index_t nr = kernels_of<T>().nr;
    const index_t reach = pool.dilation.h * (pool.kernel.h - 1);
    const bool overlap = pool.stride.h <= reach || pool.stride.w <= pool.dilation.w * (pool.kernel.w - 1);
    // dy of the convolution is never made: each gradient goes straight to its pixel's place in the panel, window by
    // window ...
    const auto pack_dy = [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                             T* packed) {
        const index_t first = strip.row * conv.ow;
        std::fill(packed, packed + strip.rows * width * nr, T(0));
        // The windows that reach into the strip: the first one ends, the last one starts there.
        const index_t begin = ceil_div(std::max<index_t>(strip.row + pool.pad.h - reach, 0), pool.stride.h);
        const index_t end = std::min((strip.row + strip.rows - 1 + pool.pad.h) / pool.stride.h + 1, pool.oh);
        const index_t end_of_strip = strip.rows * width;
        // Where in the panel a pixel goes. What lies outside goes behind the strip and is never read: a branch would be
        // a coin toss.
        const auto place = [&](index_t pixel) { return pixel >= 0 && pixel < end_of_strip ? pixel : end_of_strip; };
        const auto place_in_columns = [&](index_t pixel) {
            const index_t column = pixel % conv.ow - col;
            return pixel >= 0 && column >= 0 && column < width ? place(pixel / conv.ow * width + column) : end_of_strip;
        };
        const auto scatter = [&](const auto& where) {
            for (index_t i = 0; i < count; ++i) {
                const index_t windows = (end - begin) * pool.ow;
                const index_t plane = (strip.image * conv.k + channel + i) * pool.oh * pool.ow + begin * pool.ow;
                const T* const from = dy + plane;
                const std::int32_t* const at = indices + plane;
                for (index_t w = 0; w < windows; ++w) {
                    T& to = packed[where(at[w] - first) * nr + i];
                    to = overlap ? to + from[w] : from[w];
                }
            }
        };
        if (width == conv.ow) {
            scatter(place);
        } else {
            scatter(place_in_columns);
        }
    };
    // ... or, where the windows tile the image, row by row of pixels, for all channels of the panel at once.
    const auto pack_tiled_dy = [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                                   T* packed) {
        if (width != conv.ow) {
            pack_dy(strip, col, width, channel, count, packed);
            return;
        }
        const TypedKernels<T>& kernel = kernels_of<T>();
        const index_t begin = strip.row / pool.kernel.h, end = (strip.row + strip.rows - 1) / pool.kernel.h + 1;
        const index_t windows = (end - begin) * pool.ow, plane = pool.oh * pool.ow;
        const index_t from = (strip.image * conv.k + channel) * plane + begin * pool.ow;
        Scratch<T> gradients(windows * nr);
        Scratch<std::int32_t> at(windows * nr);
        kernel.pack_transposed(dy + from, plane, count, windows, gradients.data(), nr, nr);
        transpose_indices(indices + from, plane, count, windows, at.data(), nr, nr);
        for (index_t y = strip.row; y < strip.row + strip.rows; ++y, packed += width * nr) {
            const index_t window = (y / pool.kernel.h - begin) * pool.ow;
            kernel.unpool_pixels(pool.ow, pool.kernel.w, gradients.data() + window * nr, at.data() + window * nr,
                                 static_cast<std::int32_t>(y * conv.ow), packed);
        }
    };
    backward_weight<T>(conv, tiles_input(pool) ? PackDy<T>(pack_tiled_dy) : PackDy<T>(pack_dy), x, dweight, dbias,
                       Algorithm::automatic);
}

template void conv2d_backward_weight(const ConvShape&, const float*, const float*, float*, float*, Algorithm);
template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const float*, const float*,
                                             const float*, float*, std::int32_t*);
template void conv2d_relu_max_pool2d_backward_weight(const ConvShape&, const PoolShape&, const float*,
                                                     const std::int32_t*, const float*, float*, float*);
template void conv2d_backward_weight(const ConvShape&, const double*, const double*, double*, double*, Algorithm);
template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const double*, const double*,
                                             const double*, double*, std::int32_t*);
template void conv2d_relu_max_pool2d_backward_weight(const ConvShape&, const PoolShape&, const double*,
                                                     const std::int32_t*, const double*, double*, double*);

}  // namespace npconv
