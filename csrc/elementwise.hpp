// ReLU, forward and backward, and the update of Adam, shared among threads.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// y = 0 where x <= 0, else x.
template <class T>
void relu_forward(index_t n, const T* x, T* y);

/// dx = 0 where y <= 0, else dy.
template <class T>
void relu_backward(index_t n, const T* dy, const T* y, T* dx);

/// m += (1 - beta1)*(g - m);  v += (1 - beta2)*(g*g - v);  w -= rate * m / (sqrt(v) + epsilon); the arrays may not
/// overlap.
template <class T>
void adam_update(index_t n, T* w, const T* g, T* m, T* v, T beta1, T beta2, T rate, T epsilon);

}  // namespace npconv
