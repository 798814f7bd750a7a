// The im2col matrix and its transpose operation, for users who want to see it; convolution itself never makes it.
#pragma once

#include "shape.hpp"

namespace npconv {

/// col (n*oh*ow, c*kh*kw): row (n, oh, ow) holds the pixels under the kernel at that place, zero in the padding.
template <class T>
void im2col(const ConvShape& shape, const T* x, T* col);

/// x (n, c, h, w): every element of col is added to the pixel it was taken from.
template <class T>
void col2im(const ConvShape& shape, const T* col, T* x);

/// columns (n, c*kh*kw, oh*ow): the same pixels, with the places of the kernel along the last axis.
template <class T>
void unfold(const ConvShape& shape, const T* x, T* columns);

/// x (n, c, h, w): every element of columns is added to the pixel it was taken from.
template <class T>
void fold(const ConvShape& shape, const T* columns, T* x);

}  // namespace npconv
