// Convolution, ReLU and max pooling as one, forward and backward.
#include <algorithm>
#include <vector>

#include "conv.hpp"
#include "conv_batch.hpp"
#include "conv_channels.hpp"
#include "conv_depthwise.hpp"
#include "conv_patches.hpp"
#include "conv_phases.hpp"
#include "conv_planes.hpp"
#include "conv_weight.hpp"
#include "correlation.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "winograd.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t cache_elements = 1 << 17;     // what stays in the L2 cache between convolution and pooling
constexpr index_t gradient_elements = 1 << 21;  // of the gradient between them at a time, where it has to be made

/// The gradient between convolution and pooling, never made as a whole: each value goes straight to its pixel's place.
/// Its planes have rows of `row` pixels: pool.w, or all (in_one_row).
template <class T>
PackPixels<T> unpooled(const PoolShape& pool, const T* dy, const TapWord* taps, index_t row) {
    const index_t nr = kernels_of<T>().nr, words = words_of(pool.ow);
    const TapPixels pixels(pool);
    const index_t reach = pool.dilation.h * (pool.kernel.h - 1);
    const bool overlap = pool.stride.h <= reach || pool.stride.w <= pool.dilation.w * (pool.kernel.w - 1);
    // Window by window ...
    const auto scattered = [=](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                               T* packed) {
        const bool one_row = row != pool.w;
        // Where the strip begins in its plane, and how many pixels further it reaches.
        const index_t first = one_row ? col : strip.row * row, reached = one_row ? width : strip.rows * row;
        std::fill(packed, packed + strip.rows * width * nr, T(0));
        const index_t end_of_strip = strip.rows * width;
        // The windows that reach into the strip: the first one ends, the last one starts there.
        const index_t top = first / pool.w, bottom = (first + std::max<index_t>(reached, 1) - 1) / pool.w;
        const index_t begin = ceil_div(std::max<index_t>(top + pool.pad.h - reach, 0), pool.stride.h);
        const index_t end = std::min((bottom + pool.pad.h) / pool.stride.h + 1, pool.oh);
        // Where in the panel a pixel goes. What lies outside goes behind the strip and is never read: a branch would be
        // a coin toss.
        const auto place = [&](index_t pixel) { return pixel >= 0 && pixel < end_of_strip ? pixel : end_of_strip; };
        const auto place_in_columns = [&](index_t pixel) {
            const index_t column = pixel % pool.w - col;
            return pixel >= 0 && column >= 0 && column < width ? place(pixel / pool.w * width + column) : end_of_strip;
        };
        const auto scatter = [&](const auto& where) {
            for (index_t i = 0; i < count; ++i) {
                const index_t plane = (strip.image * pool.c + channel + i) * pool.oh;
                for (index_t row_of_windows = begin; row_of_windows < end; ++row_of_windows) {
                    const T* const from = dy + (plane + row_of_windows) * pool.ow;
                    pixels.for_row(row_of_windows, taps + (plane + row_of_windows) * words, 1,
                                   [&](index_t w, index_t pixel) {
                                       T& to = packed[where(pixel - first) * nr + i];
                                       to = overlap ? to + from[w] : from[w];
                                   });
                }
            }
        };
        if (width == pool.w || one_row) {
            scatter(place);
        } else {
            scatter(place_in_columns);
        }
    };
    if (!windows_apart(pool)) return scattered;
    // ... or, where the windows lie side by side, row by row of pixels, for all channels of the panel at once.
    return [=](const Strip& strip, index_t col, index_t width, index_t channel, index_t count, T* packed) {
        if (width != pool.w || row != pool.w) {
            scattered(strip, col, width, channel, count, packed);
            return;
        }
        const TypedKernels<T>& kernel = kernels_of<T>();
        const index_t begin = std::min(strip.row / pool.kernel.h, pool.oh);
        const index_t end = std::min((strip.row + strip.rows - 1) / pool.kernel.h + 1, pool.oh);
        const index_t rows = end - begin, plane = strip.image * pool.c + channel, first = plane * pool.oh + begin;
        const index_t columns = ceil_div(count, kernel.lanes) * kernel.lanes;
        Scratch<T> gradients(rows * pool.ow * nr);
        Scratch<TapWord> at(rows * words * nr);
        kernel.pack_transposed(dy + first * pool.ow, pool.oh * pool.ow, count, rows * pool.ow, gradients.data(), nr,
                               columns);
        transpose_words(taps + first * words, pool.oh * words, count, rows * words, at.data(), nr, columns);
        unpool_rows(pool, strip.row, strip.rows, gradients.data(), at.data(), packed);
    };
}

/// dx.
template <class T>
void pooled_backward_data(const ConvShape& conv, const PoolShape& pool, const T* dy, const TapWord* taps,
                          const T* weight, T* dx) {
    const index_t in = conv.c * conv.h * conv.w, between = conv.k * conv.oh * conv.ow, rows = pool.c * pool.oh;
    const WinogradForm* const form = winograd_data_form(conv, Algorithm::automatic);
    index_t done = conv.cg() > 4 ? images_by_batch<T>(conv, Algorithm::automatic, form) : 0;
    if (done > 0) {
        conv2d_backward_data_by_batch(with_images(conv, done), dy, &pool, taps, weight, dx);
    } else if (form && form != &winograd_1d && conv.stride.h == 1 && !dilated(conv)) {
        const auto axis = [form](index_t in_size, index_t out_size, index_t pad) {
            return backward_axis(in_size, out_size, form->kernel, 1, 1, pad, 0);
        };
        const Axis v = axis(conv.h, conv.oh, conv.pad.top), h = axis(conv.w, conv.ow, conv.pad.left);
        const Correlation<T> correlation = backward_correlation<T>(conv, v, h, nullptr, weight, nullptr, dx);
        winograd_correlate(correlation, *form, unpooled(pool, dy, taps, conv.ow), results_of(correlation));
        return;
    }
    const index_t images = std::clamp<index_t>(gradient_elements / between, 1, std::max<index_t>(conv.n, 1));
    for (; done < conv.n; done += images) {
        const index_t some = std::min(images, conv.n - done);
        Scratch<T> dz(some * between);
        relu_max_pool2d_backward(TapPixels(pool), some * pool.c, dy + done * rows * pool.ow,
                                 taps + done * rows * words_of(pool.ow), dz.data());
        conv2d_backward_data(with_images(conv, some), dz.data(), weight, dx + done * in);
    }
}

/// dweight and dbias; either may be null.
template <class T>
void pooled_backward_weight(const ConvShape& conv, const PoolShape& pool, const T* dy, const TapWord* taps, const T* x,
                            T* dweight, T* dbias) {
    const Algorithm automatic = Algorithm::automatic;
    if (const index_t batch = images_by_batch<T>(conv, automatic, winograd_weight_form(conv, automatic))) {
        conv2d_backward_weight_by_batch(with_images(conv, batch), dy, &pool, taps, x, dweight, dbias);
        if (batch == conv.n) return;
        add_gradients(conv, dweight, dbias, [&](T* more_dweight, T* more_dbias) {
            PoolShape rest = pool;
            rest.n = conv.n - batch;
            const index_t rows = batch * pool.c * pool.oh;
            pooled_backward_weight(with_images(conv, rest.n), rest, dy + rows * pool.ow,
                                   taps + rows * words_of(pool.ow), x + batch * conv.c * conv.h * conv.w, more_dweight,
                                   more_dbias);
        });
        return;
    }
    const bool every_d_th = dilated(conv) && winograd_weight_form(conv, automatic);
    const bool depthwise = suits_depthwise<T>(in_one_row(conv), Pass::backward_weight);
    if (depthwise || (dweight && (every_d_th || suits_patches<T>(conv, automatic, Pass::backward_weight)))) {
        Scratch<T> dz(conv.n * conv.k * conv.oh * conv.ow);
        relu_max_pool2d_backward(TapPixels(pool), conv.n * conv.k, dy, taps, dz.data());
        conv2d_backward_weight(conv, dz.data(), x, dweight, dbias);
        return;
    }
    const ConvShape s = in_one_row(conv);
    if (weight_suits_planes(s)) {
        const TapPixels pixels(pool);
        const auto plane_of = [&](index_t image, index_t channel, T* buffer) {
            const index_t row = (image * conv.k + channel) * pool.oh;
            relu_max_pool2d_backward(pixels, 1, dy + row * pool.ow, taps + row * words_of(pool.ow), buffer);
            return static_cast<const T*>(buffer);
        };
        conv2d_backward_weight_by_planes<T>(s, plane_of, x, dweight, dbias);
        return;
    }
    conv2d_backward_weight_from<T>(s, unpooled(pool, dy, taps, s.ow), x, dweight, dbias, automatic);
}

}  // namespace

template <class T>
void conv2d_relu_max_pool2d_forward(const ConvShape& conv, const PoolShape& pool, const T* x, const T* weight,
                                    const T* bias, T* y, TapWord* taps) {
    // Where the sums of convolution lie as [pixel][channel], in the same order as they would otherwise have, pooling
    // takes them from there.
    const Correlation<T> correlation = forward_correlation<T>(conv, x, weight, bias, nullptr);
    const bool fills_vectors = conv.kg() >= std::max(8, kernels_of<T>().lanes);
    const WinogradForm* const form = winograd_form(conv, Algorithm::automatic);
    const bool as_another = suits_patches<T>(conv, Algorithm::automatic, Pass::forward) ||
                            phases_form<T>(conv, Algorithm::automatic) ||
                            suits_depthwise<T>(in_one_row(conv), Pass::forward);
    const Way way = way_of(correlation, form);
    // A reduction of one step is summed in the same order either way.
    const bool one_step = correlation.reduction() <= channels_reduction_block;
    const bool by_channels = way == Way::channels || (way == Way::gemm && one_step);
    const index_t batch = windows_inside(pool) ? images_by_batch<T>(conv, Algorithm::automatic, form) : 0;
    if (batch > 0) {
        conv2d_forward_by_batch(with_images(conv, batch), x, weight, bias, false, &pool, y, taps);
        if (batch == conv.n) return;
        PoolShape rest = pool;
        rest.n = conv.n - batch;
        const index_t rows = batch * pool.c * pool.oh;
        conv2d_relu_max_pool2d_forward(with_images(conv, rest.n), rest, x + batch * conv.c * conv.h * conv.w, weight,
                                       bias, y + rows * pool.ow, taps ? taps + rows * words_of(pool.ow) : nullptr);
        return;
    }
    const Pooled<T> pooled{pool, y, taps};
    if (!as_another && by_channels && fills_vectors && tiles_input(pool)) {
        correlate_along_channels(correlation, &pooled);
        return;
    }
    if (!as_another && way == Way::winograd && windows_apart(pool) && !dilated(conv)) {
        winograd_correlate<T>(
            correlation, *form, pixels_of(x, conv.c, conv.h, conv.w),
            [&](const Strip& strip, index_t, index_t, index_t channel, index_t count, const T* sums) {
                store_pooled(pooled, strip, channel, count, sums);
            },
            pool.kernel.h);
        return;
    }
    const index_t between = conv.k * conv.oh * conv.ow, threads = get_num_threads();
    index_t images = std::clamp<index_t>(cache_elements / between, 1, std::max<index_t>(conv.n, 1));
    images = std::min(images, std::max<index_t>(conv.n / (4 * threads), 1));
    const bool inside = windows_inside(pool) && pool.stride.w <= 2 && !as_another;
    const auto some_images = [&](index_t task) {
        const index_t first = task * images, in = conv.c * conv.h * conv.w, rows = pool.c * pool.oh;
        ConvShape part_of_conv = conv;
        PoolShape part_of_pool = pool;
        part_of_conv.n = part_of_pool.n = std::min(images, conv.n - first);
        T* const maxima = y + first * rows * pool.ow;
        TapWord* const words = taps ? taps + first * rows * words_of(pool.ow) : nullptr;
        Correlation<T> part = forward_correlation<T>(part_of_conv, x + first * in, weight, bias, nullptr);
        if (!inside) {
            Scratch<T> z(part_of_conv.n * between);
            Scratch<index_t> indices(taps ? part_of_conv.n * rows * pool.ow : 0);
            conv2d_forward(part_of_conv, x + first * in, weight, bias, z.data());
            max_pool2d_forward(part_of_pool, z.data(), maxima, taps ? indices.data() : nullptr);
            cut_maxima(part_of_pool, maxima, indices.data(), words);
            return;
        }
        // In correlate_gemm, rows as far apart as in the slab: then a whole tile is stored at a time, whatever rows end
        // in it.
        part.loose = way == Way::gemm;
        if (part.loose) part.out_w += part.h.reach;
        Scratch<T> z(part_of_conv.n * conv.k * conv.oh * part.out_w + 4 * max_tile_columns);
        part.out = z.data();
        correlate(part, form);
        relu_max_pool2d_forward(part_of_pool, z.data(), part.out_w, maxima, words);
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
void conv2d_relu_max_pool2d_backward(const ConvShape& conv, const PoolShape& pool, const T* dy, const TapWord* taps,
                                     const T* x, const T* weight, T* dx, T* dweight, T* dbias) {
    if (dx) pooled_backward_data(conv, pool, dy, taps, weight, dx);
    if (dweight || dbias) pooled_backward_weight(conv, pool, dy, taps, x, dweight, dbias);
}

template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const float*, const float*,
                                             const float*, float*, TapWord*);
template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const double*, const double*,
                                             const double*, double*, TapWord*);
template void conv2d_relu_max_pool2d_backward(const ConvShape&, const PoolShape&, const float*, const TapWord*,
                                              const float*, const float*, float*, float*, float*);
template void conv2d_relu_max_pool2d_backward(const ConvShape&, const PoolShape&, const double*, const TapWord*,
                                              const double*, const double*, double*, double*, double*);

}  // namespace npconv
