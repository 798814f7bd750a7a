// ReLU, its gradient, and the update of Adam; plain loops, the compiler vectorises them.
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

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <class T>
void adam_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v, T beta1, T beta2,
                 T rate, T epsilon, index_t n) {
    for (index_t i = 0; i < n; ++i) {
        m[i] += (1 - beta1) * (g[i] - m[i]);
        v[i] += (1 - beta2) * (g[i] * g[i] - v[i]);
        w[i] -= rate * m[i] / (square_root(v[i]) + epsilon);
    }
}

}  // namespace
}  // namespace npconv
