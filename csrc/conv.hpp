// Two-dimensional convolution and its gradients: as implicit GEMM, where the im2col matrix is never made, only the
// small packed panels of it that the micro-kernel is about to read, or in one of the other ways of
// docs/how-it-works.md.
#pragma once

#include "shape.hpp"

namespace npconv {

/// What is to be made of a convolution.
enum class Pass { forward, backward_data, backward_weight };

/// How a convolution is computed. All give the same result, but for rounding.
enum class Algorithm { automatic, gemm, winograd2, winograd4 };

/// Whether each output pixel is made of one input pixel, the one in its place.
inline bool pixel_by_pixel(const ConvShape& s) {
    return s.kh == 1 && s.kw == 1 && s.stride.h == 1 && s.stride.w == 1 && s.h == s.oh && s.w == s.ow &&
           s.pad.top == 0 && s.pad.left == 0;
}

/// Whether its taps lie further apart than one pixel.
inline bool dilated(const ConvShape& s) { return s.dilation.h > 1 || s.dilation.w > 1; }

/// The same convolution over images of one long row, if it goes pixel by pixel: there no row ends within a panel.
ConvShape in_one_row(const ConvShape& shape);

/// Fills the planes of each channel with its value, or with 0 where `values` is null.
template <class T>
void fill_planes(index_t images, index_t channels, index_t plane, const T* values, T* planes);

/// y = x * weight + bias, or ReLU of that; `bias` may be null. x (n, c, h, w), weight (k, c/groups, kh, kw), y (n, k,
/// oh, ow).
template <class T>
void conv2d_forward(const ConvShape& shape, const T* x, const T* weight, const T* bias, T* y,
                    Algorithm algorithm = Algorithm::automatic, bool relu = false);

/// dx from dy (n, k, oh, ow), and bias (c) added to it unless null: that is transposed convolution.
template <class T>
void conv2d_backward_data(const ConvShape& shape, const T* dy, const T* weight, T* dx,
                          Algorithm algorithm = Algorithm::automatic, const T* bias = nullptr);

/// The same, tap by tap: fast for few input channels, as those of a first layer, which the other ways have too few rows
/// of a tile for, and where dx is much larger than dy.
template <class T>
void conv2d_backward_data_by_taps(const ConvShape& shape, const T* dy, const T* weight, T* dx);

/// dweight and dbias (k); either may be null where it is not needed.
template <class T>
void conv2d_backward_weight(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias,
                            Algorithm algorithm = Algorithm::automatic);

/// The gradients of transposed convolution, of x (n, k, oh, ow) and dy (n, c, h, w); each may be null.
template <class T>
void conv_transpose2d_backward(const ConvShape& shape, const T* dy, const T* x, const T* weight, T* dx, T* dweight,
                               T* dbias);

/// max_pool2d of ReLU of conv2d, a few images at a time: what is between them never leaves the cache. `taps` may be
/// null.
template <class T>
void conv2d_relu_max_pool2d_forward(const ConvShape& conv, const PoolShape& pool, const T* x, const T* weight,
                                    const T* bias, T* y, TapWord* taps);

/// dx, dweight and dbias from the gradient of that result, with the same bits as step by step; each may be null.
template <class T>
void conv2d_relu_max_pool2d_backward(const ConvShape& conv, const PoolShape& pool, const T* dy, const TapWord* taps,
                                     const T* x, const T* weight, T* dx, T* dweight, T* dbias);

}  // namespace npconv
