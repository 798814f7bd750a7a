// Convolution with dilation as convolutions without it.
//
// With a dilation of d, output d*i + r meets tap t at input d*(i + t) + r - pad: whatever t is, at every d-th pixel
// from one place on. So the outputs of each r are a convolution without dilation of an image that has these pixels
// alone. An image and its outputs are put apart into d*d such (d along either axis), which become images of a batch,
// for whatever serves a convolution without dilation best.
#pragma once

#include "conv.hpp"

namespace npconv {

/// Whether that is expected to be faster.
template <class T>
bool suits_apart(const ConvShape& shape, Algorithm algorithm);

template <class T>
void conv2d_forward_apart(const ConvShape& shape, const T* x, const T* weight, const T* bias, bool relu, T* y);

template <class T>
void conv2d_backward_data_apart(const ConvShape& shape, const T* dy, const T* weight, const T* bias, T* dx);

/// Either of dweight and dbias may be null.
template <class T>
void conv2d_backward_weight_apart(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
