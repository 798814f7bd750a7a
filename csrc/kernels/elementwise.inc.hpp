// ReLU and its gradient; plain loops, the compiler vectorises them.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T>
void relu_forward(const T* x, T* y, index_t n) {
    for (index_t i = 0; i < n; ++i) y[i] = x[i] <= 0 ? T(0) : x[i];  // this way round a NaN passes
}

template <class T>
void relu_backward(const T* dy, const T* y, T* dx, index_t n) {
    for (index_t i = 0; i < n; ++i) dx[i] = y[i] <= 0 ? T(0) : dy[i];
}

}  // namespace
}  // namespace npconv
