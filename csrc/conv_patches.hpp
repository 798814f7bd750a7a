// Convolutions whose windows tile the image: patches, one beside the other, each of which becomes a pixel.
//
// With windows of d x d pixels and a stride of d, output i meets tap r at input d*i + r. So the pixels that meet one
// tap, every d-th, are an image of their own; with these as channels, d*d for each, the convolution is one pixel by
// pixel.
#pragma once

#include "conv.hpp"

namespace npconv {

/// Whether that is expected to be faster.
template <class T>
bool suits_patches(const ConvShape& shape, Algorithm algorithm, Pass pass);

template <class T>
void conv2d_forward_by_patches(const ConvShape& shape, const T* x, const T* weight, const T* bias, bool relu, T* y);

template <class T>
void conv2d_backward_data_by_patches(const ConvShape& shape, const T* dy, const T* weight, const T* bias, T* dx);

/// Either of dweight and dbias may be null.
template <class T>
void conv2d_backward_weight_by_patches(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
