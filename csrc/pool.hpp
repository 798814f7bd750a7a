// Max pooling and unpooling, forward and backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dispatch.hpp"
#include "shape.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {

/// y (n, c, oh, ow) and, unless `indices` is null, where in its h*w plane each maximum lies. A window that holds no
/// pixel at all (dilation can place every tap in the padding) gives minus infinity and index -1. With `relu`, a maximum
/// that is not positive becomes 0, and its index -1: max pooling of ReLU of x.
/// `Index` is index_t, or std::int32_t where a plane has fewer than 2**31 pixels.
template <class T, class Index>
void max_pool2d_forward(const PoolShape& shape, const T* x, T* y, Index* indices, bool relu = false);

/// The taps of a window: where each lies from the first on, in memory with `row` elements from row to row and `column`
/// from pixel to pixel, and in its plane of s.w pixels a row.
struct WindowTaps {
    std::vector<index_t> offsets;
    std::vector<std::int32_t> codes;

    WindowTaps(const PoolShape& s, index_t row, index_t column) {
        for (index_t r = 0; r < s.kernel.h; ++r) {
            for (index_t t = 0; t < s.kernel.w; ++t) {
                offsets.push_back(r * s.dilation.h * row + t * s.dilation.w * column);
                codes.push_back(static_cast<std::int32_t>(r * s.dilation.h * s.w + t * s.dilation.w));
            }
        }
    }
    int count() const { return static_cast<int>(codes.size()); }
};

/// pack_transposed of indices, which are moved as floats of the same bits.
inline void transpose_indices(const std::int32_t* src, index_t ld_src, index_t rows, index_t columns, std::int32_t* dst,
                              index_t ld_dst, index_t width) {
    kernels_of<float>().pack_transposed(reinterpret_cast<const float*>(src), ld_src, rows, columns,
                                        reinterpret_cast<float*>(dst), ld_dst, width);
}

/// Whether no window reaches beyond the image.
bool windows_inside(const PoolShape& shape);

/// Whether the windows lie side by side, each pixel in one of them at most.
inline bool windows_apart(const PoolShape& s) {
    return s.stride.h == s.kernel.h && s.stride.w == s.kernel.w && s.dilation.h == 1 && s.dilation.w == 1 &&
           s.pad.h == 0 && s.pad.w == 0 && s.oh * s.stride.h <= s.h && s.ow * s.stride.w <= s.w;
}

/// Whether they leave no pixel over, either.
inline bool tiles_input(const PoolShape& s) {
    return windows_apart(s) && s.oh * s.stride.h == s.h && s.ow * s.stride.w == s.w;
}

/// Where max pooling of ReLU of the result goes, instead of the result.
template <class T>
struct Pooled {
    PoolShape shape;
    T* y;
    std::int32_t* indices;  ///< may be null
};

/// Takes the maximum of each window over the finished sums of a strip, and turns it over into the planes of its image.
template <class T>
void store_pooled(const Pooled<T>& pooled, const Strip& strip, index_t channel, index_t count, const T* sums) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const PoolShape& s = pooled.shape;
    const index_t nr = kernel.nr, rows = strip.rows / s.kernel.h, windows = rows * s.ow;
    Scratch<T> maxima(windows * nr);
    Scratch<std::int32_t> indices(pooled.indices ? windows * nr : 0);
    const WindowTaps taps(s, s.w * nr, nr);
    for (index_t row = 0; row < rows; ++row) {
        const index_t first = row * s.kernel.h * s.w;
        kernel.relu_pool_pixels(s.ow, s.kernel.w * nr, taps.count(), sums + first * nr, taps.offsets.data(),
                                taps.codes.data(), static_cast<std::int32_t>(strip.row * s.w + first),
                                static_cast<std::int32_t>(s.kernel.w), maxima.data() + row * s.ow * nr,
                                pooled.indices ? indices.data() + row * s.ow * nr : nullptr);
    }
    const index_t plane = s.oh * s.ow;
    const index_t to = (strip.image * s.c + channel) * plane + strip.row / s.kernel.h * s.ow;
    kernel.pack_transposed(maxima.data(), nr, windows, count, pooled.y + to, plane, windows);
    if (!pooled.indices) return;
    transpose_indices(indices.data(), nr, windows, count, pooled.indices + to, plane, windows);
}

/// The way back through windows that lie side by side: `rows` rows of pixels from `first` on, each with the gradient of
/// its window if that window's index is there, else 0. `dy` and `indices` begin with the row of windows over the first.
/// All are [pixel][nr].
template <class T>
void unpool_rows(const PoolShape& s, index_t first, index_t rows, const T* dy, const std::int32_t* indices, T* to) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t nr = kernel.nr, covered = s.ow * s.kernel.w * nr, width = s.w * nr;
    for (index_t y = first; y < first + rows; ++y, to += width) {
        const index_t window = (y / s.kernel.h - first / s.kernel.h) * s.ow * nr;
        const bool inside = y / s.kernel.h < s.oh;
        if (inside) {
            kernel.unpool_pixels(s.ow, s.kernel.w, dy + window, indices + window, static_cast<std::int32_t>(y * s.w),
                                 to);
        }
        std::fill(to + (inside ? covered : 0), to + width, T(0));
    }
}

/// The same for windows inside the image, at most 2 apart, of images whose rows are `pitch` elements apart; four
/// vectors behind them must be readable.
template <class T>
void relu_max_pool2d_forward(const PoolShape& shape, const T* x, index_t pitch, T* y, std::int32_t* indices);

/// Throws std::invalid_argument.
[[noreturn]] inline void refuse_index(const char* op, index_t index, index_t plane_size) {
    refuse(op, "indices holds ", index, ", the planes they point into have ", plane_size,
           " pixels; pass what the forward operator returned for this shape");
}

/// dx (planes of `plane_size` pixels): each dy is added where its index says. Refuses an index outside its plane.
template <class T, class Index>
void max_pool2d_backward(const char* op, index_t planes, index_t plane_size, index_t windows, const T* dy,
                         const Index* indices, T* dx);

/// y (planes of `plane_size` pixels): zeros, but each x where its index says, the last one of several. Throws
/// std::invalid_argument if an index lies outside its plane.
template <class T>
void max_unpool2d_forward(index_t planes, index_t plane_size, index_t windows, const T* x, const index_t* indices,
                          T* y);

/// dx: what lies in dy where each index says.
template <class T>
void max_unpool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                           T* dx);

}  // namespace npconv
