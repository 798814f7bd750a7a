// ReLU, forward and backward, and the updates of the optimizers, shared among threads.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// y = 0 where x <= 0, else x.
template <class T>
void relu_forward(index_t n, const T* x, T* y);

/// dx = 0 where y <= 0, else dy.
template <class T>
void relu_backward(index_t n, const T* dy, const T* y, T* dx);

/// One step of an optimizer, see TypedKernels::update; `a` and `b` are null where the rule keeps fewer arrays.
template <class T>
void update(Rule rule, index_t n, T* w, const T* g, T* a, T* b, const double* numbers);

}  // namespace npconv
