// Max pooling and unpooling, forward and backward.
#pragma once

#include <cstdint>
#include <vector>

#include "dispatch.hpp"
#include "shape.hpp"

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

/// The same for windows inside the image, at most 2 apart, of images whose rows are `pitch` elements apart; four
/// vectors behind them must be readable.
template <class T>
void relu_max_pool2d_forward(const PoolShape& shape, const T* x, index_t pitch, T* y, std::int32_t* indices);

/// dx (planes of `plane_size` pixels): each dy is added where its index says. Throws std::invalid_argument if an index
/// lies outside its plane.
template <class T, class Index>
void max_pool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const Index* indices, T* dx);

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
