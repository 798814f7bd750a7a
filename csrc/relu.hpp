// ReLU, forward and backward.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// y = 0 where x <= 0, else x.
template <class T>
void relu_forward(index_t n, const T* x, T* y);

/// dx = 0 where y <= 0, else dy.
template <class T>
void relu_backward(index_t n, const T* dy, const T* y, T* dx);

}  // namespace npconv
