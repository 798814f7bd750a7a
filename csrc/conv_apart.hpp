// Convolutions that meet every d-th pixel only, as convolutions of images that have these pixels alone: an image is put
// apart into d*d parts (d along either axis).
//
// With a dilation of d, output d*i + r meets tap t at input d*(i + t) + r - pad: whatever t is, at every d-th pixel
// from one place on. So the outputs of each r are a convolution without dilation, and the parts are images of a batch.
//
// Where windows of d x d pixels tile the image, output i meets tap r at input d*i + r. So the parts are channels, and
// the convolution is one pixel by pixel.
#pragma once

#include "conv.hpp"

namespace npconv {

/// What is to be made of a convolution.
enum class Pass { forward, backward_data, backward_weight };

/// Whether that is expected to be faster.
template <class T>
bool suits_apart(const ConvShape& shape, Algorithm algorithm, Pass pass);

template <class T>
void conv2d_forward_apart(const ConvShape& shape, const T* x, const T* weight, const T* bias, bool relu, T* y);

template <class T>
void conv2d_backward_data_apart(const ConvShape& shape, const T* dy, const T* weight, const T* bias, T* dx);

/// Either of dweight and dbias may be null.
template <class T>
void conv2d_backward_weight_apart(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
