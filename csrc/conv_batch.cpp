#include "conv_batch.hpp"

#include <algorithm>
#include <vector>

#include "conv_channels.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// As many images at a time as a tile has columns, nr, are turned over to [channel][row][column][image]. A pixel of all
// of them is then a row of a panel: wherever it lies, at any size of the images, no lane is wasted and nothing is
// packed. The padding is made while turning over.

/// The sizes of one group of images, padded.
struct Padded {
    index_t height, width, lanes;

    Padded(const ConvShape& s, index_t lanes_)
        : height(s.h + s.pad.top + s.pad.bottom), width(s.w + s.pad.left + s.pad.right), lanes(lanes_) {}
    index_t plane() const { return height * width * lanes; }
    index_t at(index_t row, index_t column) const { return (row * width + column) * lanes; }
};

/// Planes of `count` images, `size` pixels in a row, `stride` from image to image: to[pixel][lane].
template <class T>
void transpose_images(const T* images, index_t stride, index_t count, index_t size, index_t lanes, T* to) {
    kernels_of<T>().pack_transposed(images, stride, count, size, to, lanes, lanes);
}

/// The way back.
template <class T>
void transpose_back(const T* from, index_t lanes, index_t size, index_t count, T* images, index_t stride) {
    kernels_of<T>().pack_transposed(from, lanes, size, count, images, stride, size);
}

/// All channels of the images from `first` on.
template <class T>
void transpose_padded(const ConvShape& s, const Padded& padded, const T* x, index_t first, T* to) {
    const index_t stride = s.c * s.h * s.w, count = std::min(padded.lanes, s.n - first);
    const T* const from = x + first * stride;
    if (padded.height == s.h && padded.width == s.w) {
        transpose_images(from, stride, count, stride, padded.lanes, to);
        return;
    }
    for (index_t c = 0; c < s.c; ++c, to += padded.plane()) {
        index_t end = 0;  // of what is written: the padding between two rows lies in one piece
        for (index_t y = 0; y < s.h; ++y) {
            const index_t begin = padded.at(s.pad.top + y, s.pad.left);
            std::fill(to + end, to + begin, T(0));
            transpose_images(from + (c * s.h + y) * s.w, stride, count, s.w, padded.lanes, to + begin);
            end = begin + s.w * padded.lanes;
        }
        std::fill(to + end, to + padded.plane(), T(0));
    }
}

/// Where the pixels that every (channel, tap) meets lie, from that of the first on.
std::vector<index_t> tap_offsets(const ConvShape& s, const Padded& padded) {
    std::vector<index_t> offsets;
    for (index_t c = 0; c < s.c; ++c) {
        for (index_t r = 0; r < s.kh; ++r) {
            for (index_t t = 0; t < s.kw; ++t) {
                offsets.push_back(c * padded.plane() + padded.at(r * s.dilation.h, t * s.dilation.w));
            }
        }
    }
    return offsets;
}

/// From one plane of [pixel][lane] to the next: not a power of two, or those of all channels would meet in the same
/// lines of the L1 cache.
template <class T>
index_t plane_stride(index_t pixels) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    return pixels * kernel.nr + kernel.lanes;
}

/// What comes back to a convolution: dy of its result; or, unless `pool` is null, of max pooling of ReLU of that.
template <class T>
struct Gradients {
    const PoolShape* pool;
    const T* dy;
    const TapWord* taps;
};

/// The gradients of one channel behind which there is pooling, of `count` images `channels` planes apart: each goes
/// to its tap.
template <class T>
void transpose_pooled(const PoolShape& pool, const T* dy, const TapWord* taps, index_t channels, index_t count, T* to) {
    const index_t lanes = kernels_of<T>().nr, windows = pool.oh * pool.ow, pixels = pool.h * pool.w;
    const index_t words = words_of(pool.ow), all_words = pool.oh * words;
    Scratch<T> gradients(windows * lanes);
    Scratch<TapWord> at(all_words * lanes);
    transpose_images(dy, channels * windows, count, windows, lanes, gradients.data());
    transpose_words(taps, channels * all_words, count, all_words, at.data(), lanes, lanes);
    if (windows_apart(pool)) {
        unpool_rows(pool, 0, pool.h, gradients.data(), at.data(), to);
        return;
    }
    std::fill(to, to + pixels * lanes, T(0));
    const TapPixels tap_pixels(pool);
    for (index_t row = 0; row < pool.oh; ++row) {
        for (index_t lane = 0; lane < count; ++lane) {
            const T* const from = gradients.data() + row * pool.ow * lanes + lane;
            tap_pixels.for_row(row, at.data() + row * words * lanes + lane, lanes, [&](index_t w, index_t pixel) {
                if (pixel >= 0 && pixel < pixels) to[pixel * lanes + lane] += from[w * lanes];
            });
        }
    }
}

/// The gradients of `filters` channels from k0 on, of `count` images from `first` on.
template <class T>
void transpose_gradients(const ConvShape& s, const Gradients<T>& from, index_t first, index_t count, index_t k0,
                         index_t filters, T* to) {
    const index_t pixels = s.oh * s.ow;
    for (index_t k = 0; k < filters; ++k, to += plane_stride<T>(pixels)) {
        const index_t plane = first * s.k + k0 + k;
        if (const PoolShape* const pool = from.pool) {
            transpose_pooled(*pool, from.dy + plane * pool->oh * pool->ow,
                             from.taps + plane * pool->oh * words_of(pool->ow), s.k, count, to);
        } else {
            transpose_images(from.dy + plane * pixels, s.k * pixels, count, pixels, kernels_of<T>().nr, to);
        }
    }
}

/// Into how many tiles channels are cut: as few as there can be, unless there are threads for more.
template <class T>
index_t tiles_of(index_t channels, index_t groups) {
    const index_t least = ceil_div(channels, kernels_of<T>().mr), most = std::max(least, channels / 4);
    return std::clamp<index_t>(ceil_div(get_num_threads(), groups), least, most);
}

/// How groups of images are dealt to tasks: a whole one each, as long as every thread gets one; where fewer are left
/// than there are threads, each in parts.
class Deal {
   public:
    Deal(index_t groups, index_t most_parts) : whole_(groups - groups % get_num_threads()), rest_(groups - whole_) {
        parts_ = std::clamp<index_t>(get_num_threads() / std::max<index_t>(rest_, 1), 1, most_parts);
    }
    struct Share {
        index_t group, part, parts;
    };
    index_t tasks() const { return whole_ + rest_ * parts_; }
    Share share(index_t task) const {
        if (task < whole_) return {task, 0, 1};
        return {whole_ + (task - whole_) / parts_, (task - whole_) % parts_, parts_};
    }

   private:
    index_t whole_, rest_, parts_;
};

double work_ns(const ConvShape& s, index_t tasks) {
    return static_cast<double>(s.n * s.oh * s.ow * s.k) * static_cast<double>(s.c * s.kh * s.kw) * fma_ns /
           static_cast<double>(tasks);
}

}  // namespace

template <class T>
void conv2d_forward_by_batch(const ConvShape& s, const T* x, const T* weight, const T* bias, bool relu,
                             const PoolShape* pool, T* y, TapWord* taps) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t lanes = kernel.nr, groups = ceil_div(s.n, lanes), tiles = tiles_of<T>(s.k, groups);
    const index_t reduction = s.c * s.kh * s.kw, pixels = s.oh * s.ow, results = pool ? pool->oh * pool->ow : pixels;
    const Padded padded(s, lanes);
    const std::vector<index_t> offsets = tap_offsets(s, padded);
    Scratch<T> weights(s.k * reduction);
    for (index_t tile = 0; tile < tiles; ++tile) {
        const index_t m = share_begin(tile, tiles, s.k), rows = share_begin(tile + 1, tiles, s.k) - m;
        kernel.pack_transposed(weight + m * reduction, reduction, rows, reduction, weights.data() + m * reduction, rows,
                               rows);
    }

    const Deal deal(groups, tiles);
    parallel_for(deal.tasks(), work_ns(s, deal.tasks()), [&](index_t task) {
        const auto [group, part, parts] = deal.share(task);
        const index_t first = group * lanes, count = std::min(lanes, s.n - first);
        const index_t most = ceil_div(s.k, tiles);
        Scratch<T> in(s.c * padded.plane()), sums(most * plane_stride<T>(pixels));
        Scratch<T> maxima(pool ? most * results * lanes : 0);
        const index_t words = pool && taps ? words_of(pool->ow) : 0, all_words = pool ? pool->oh * words : 0;
        Scratch<TapWord> at(most * all_words * lanes);
        transpose_padded(s, padded, x, first, in.data());
        for (index_t tile = share_begin(part, parts, tiles); tile < share_begin(part + 1, parts, tiles); ++tile) {
            const index_t m = share_begin(tile, tiles, s.k), rows = share_begin(tile + 1, tiles, s.k) - m;
            const auto gemm_tile = kernel.gemm_tile[rows];
            for (index_t pixel = 0; pixel < pixels; ++pixel) {
                gemm_tile(reduction, weights.data() + m * reduction, rows,
                          in.data() + padded.at(pixel / s.ow * s.stride.h, pixel % s.ow), offsets.data(),
                          sums.data() + pixel * lanes, plane_stride<T>(pixels), static_cast<int>(lanes),
                          bias ? bias + m : nullptr, false, relu, in.data(), 0);
            }
            const index_t to = (first * s.k + m) * results, stride = s.k * results;
            if (pool) {
                const std::vector<index_t> window = window_offsets(*pool, s.ow * lanes, lanes);
                for (index_t row = 0; row < rows * pool->oh; ++row) {
                    const index_t k = row / pool->oh, top = row % pool->oh * pool->stride.h * s.ow;
                    kernel.relu_pool_pixels(pool->ow, pool->stride.w * lanes, static_cast<int>(window.size()),
                                            sums.data() + k * plane_stride<T>(pixels) + top * lanes, window.data(),
                                            maxima.data() + row * pool->ow * lanes,
                                            taps ? at.data() + row * words * lanes : nullptr);
                }
                transpose_back(maxima.data(), lanes, rows * results, count, y + to, stride);
            }
            for (index_t k = 0; !pool && k < rows; ++k) {
                transpose_back(sums.data() + k * plane_stride<T>(pixels), lanes, pixels, count, y + to + k * pixels,
                               stride);
            }
            if (pool && taps) {
                transpose_words(at.data(), lanes, rows * all_words, count, taps + (first * s.k + m) * all_words,
                                s.k * all_words, rows * all_words);
            }
        }
    });
}

// A pixel of dx is the sum over those rows of taps that meet dy there, and over those taps of a row. The weights are
// packed as [row of taps][tap][filter], so that these are contiguous.
template <class T>
void conv2d_backward_data_by_batch(const ConvShape& s, const T* dy, const PoolShape* pool, const TapWord* taps_of_dy,
                                   const T* weight, T* dx) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t lanes = kernel.nr, groups = ceil_div(s.n, lanes), tiles = tiles_of<T>(s.c, groups);
    const index_t taps = s.kh * s.kw, in_pixels = s.h * s.w, in_plane = plane_stride<T>(in_pixels);
    Scratch<T> weights(s.c * taps * s.k);
    for (index_t tile = 0; tile < tiles; ++tile) {
        const index_t c0 = share_begin(tile, tiles, s.c), rows = share_begin(tile + 1, tiles, s.c) - c0;
        T* to = weights.data() + c0 * taps * s.k;
        for (index_t tap = 0; tap < taps; ++tap) {
            for (index_t k = 0; k < s.k; ++k) {
                for (index_t c = 0; c < rows; ++c) *to++ = weight[(k * s.c + c0 + c) * taps + tap];
            }
        }
    }
    std::vector<index_t> steps;  // from the first of some taps of a row on, the pixels that they meet
    for (index_t t = 0; t < s.kw; ++t) {
        for (index_t k = 0; k < s.k; ++k) {
            steps.push_back(k * plane_stride<T>(s.oh * s.ow) - t * s.dilation.w * lanes);
        }
    }

    const Deal deal(groups, tiles);
    parallel_for(deal.tasks(), work_ns(s, deal.tasks()), [&](index_t task) {
        const auto [group, part, parts] = deal.share(task);
        const index_t first = group * lanes, count = std::min(lanes, s.n - first);
        Scratch<T> gradients(s.k * plane_stride<T>(s.oh * s.ow)), sums(ceil_div(s.c, tiles) * in_plane);
        transpose_gradients(s, Gradients<T>{pool, dy, taps_of_dy}, first, count, 0, s.k, gradients.data());
        for (index_t tile = share_begin(part, parts, tiles); tile < share_begin(part + 1, parts, tiles); ++tile) {
            const index_t c0 = share_begin(tile, tiles, s.c), rows = share_begin(tile + 1, tiles, s.c) - c0;
            for (index_t pixel = 0; pixel < in_pixels; ++pixel) {
                const index_t y = pixel / s.w + s.pad.top, x = pixel % s.w + s.pad.left;
                const index_t t0 = ceil_div(std::max<index_t>(x - (s.ow - 1), 0), s.dilation.w);
                const index_t t1 = std::min(x / s.dilation.w + 1, s.kw);
                bool empty = true;
                for (index_t r = 0; r < s.kh && t0 < t1; ++r) {
                    const index_t row = y - r * s.dilation.h;
                    if (row < 0 || row % s.stride.h > 0 || row / s.stride.h >= s.oh) continue;
                    const index_t from = row / s.stride.h * s.ow + x - t0 * s.dilation.w;
                    kernel.gemm_tile[rows]((t1 - t0) * s.k, weights.data() + (c0 * taps + (r * s.kw + t0) * rows) * s.k,
                                           rows, gradients.data() + from * lanes, steps.data(),
                                           sums.data() + pixel * lanes, in_plane, static_cast<int>(lanes), nullptr,
                                           !empty, false, gradients.data(), 0);
                    empty = false;
                }
                for (index_t c = 0; empty && c < rows; ++c) {
                    std::fill_n(sums.data() + c * in_plane + pixel * lanes, lanes, T(0));
                }
            }
            for (index_t c = 0; c < rows; ++c) {
                transpose_back(sums.data() + c * in_plane, lanes, in_pixels, count,
                               dx + (first * s.c + c0 + c) * in_pixels, s.c * in_pixels);
            }
        }
    });
}

// The images are cut into parts by their number alone, so that the sums do not depend on the number of threads; the
// filters are dealt to tasks.
template <class T>
void conv2d_backward_weight_by_batch(const ConvShape& s, const T* dy, const PoolShape* pool, const TapWord* taps,
                                     const T* x, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t lanes = kernel.nr, groups = ceil_div(s.n, lanes), pixels = s.oh * s.ow;
    if (!dweight && !dbias) return;
    const index_t count_of_taps = s.c * s.kh * s.kw, size = s.k * (count_of_taps + 1);
    const Padded padded(s, lanes);
    const std::vector<index_t> offsets = tap_offsets(s, padded);
    const index_t splits = std::min<index_t>(groups, 64);
    const Deal deal(splits, ceil_div(s.k, 4));
    Scratch<T> partials(splits * size);
    parallel_for(deal.tasks(), work_ns(s, deal.tasks()), [&](index_t task) {
        const auto [split, part, parts] = deal.share(task);
        const index_t k0 = share_begin(part, parts, s.k), filters = share_begin(part + 1, parts, s.k) - k0;
        T* const sums = partials.data() + split * size + k0 * (count_of_taps + 1);
        std::fill(sums, sums + filters * (count_of_taps + 1), T(0));
        Scratch<T> in(s.c * padded.plane()), gradients(filters * plane_stride<T>(pixels));
        std::vector<const T*> planes;
        for (index_t k = 0; k < filters; ++k) planes.push_back(gradients.data() + k * plane_stride<T>(pixels));
        const index_t last = share_begin(split + 1, splits, groups);
        for (index_t group = share_begin(split, splits, groups); group < last; ++group) {
            const index_t first = group * lanes, count = std::min(lanes, s.n - first);
            transpose_padded(s, padded, x, first, in.data());
            transpose_gradients(s, Gradients<T>{pool, dy, taps}, first, count, k0, filters, gradients.data());
            if (dweight) {
                kernel.products_of_rows(filters, count_of_taps, in.data(), offsets.data(), s.oh,
                                        padded.at(s.stride.h, 0), s.ow * lanes, planes.data(), s.ow * lanes, sums,
                                        count_of_taps + 1);
            }
            for (index_t k = 0; dbias && k < filters; ++k) {
                const auto sum = kernel.sum(planes[static_cast<std::size_t>(k)], pixels * lanes);
                sums[k * (count_of_taps + 1) + count_of_taps] += static_cast<T>(sum);
            }
        }
    });
    T* const total = partials.data();
    for (index_t split = 1; split < splits; ++split) {
        for (index_t i = 0; i < size; ++i) total[i] += total[split * size + i];
    }
    for (index_t k = 0; k < s.k; ++k) {
        const T* const from = total + k * (count_of_taps + 1);
        if (dweight) std::copy(from, from + count_of_taps, dweight + k * count_of_taps);
        if (dbias) dbias[k] = from[count_of_taps];
    }
}

template void conv2d_forward_by_batch(const ConvShape&, const float*, const float*, const float*, bool,
                                      const PoolShape*, float*, TapWord*);
template void conv2d_forward_by_batch(const ConvShape&, const double*, const double*, const double*, bool,
                                      const PoolShape*, double*, TapWord*);
template void conv2d_backward_data_by_batch(const ConvShape&, const float*, const PoolShape*, const TapWord*,
                                            const float*, float*);
template void conv2d_backward_data_by_batch(const ConvShape&, const double*, const PoolShape*, const TapWord*,
                                            const double*, double*);
template void conv2d_backward_weight_by_batch(const ConvShape&, const float*, const PoolShape*, const TapWord*,
                                              const float*, float*, float*);
template void conv2d_backward_weight_by_batch(const ConvShape&, const double*, const PoolShape*, const TapWord*,
                                              const double*, double*, double*);

}  // namespace npconv
