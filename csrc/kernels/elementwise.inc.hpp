// ReLU, its gradient, and the updates of the optimizers; plain loops, the compiler vectorises them.
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

// The updates: `a` and `b` are what the rule keeps, see TypedKernels::update. Numbers come as double, since of one like
// 0.999 single precision keeps too little for 1 - 0.999.

template <class T>
void sgd_update(T* __restrict__ w, const T* __restrict__ g, T*, T*, const double* numbers, index_t n) {
    const T lr = T(numbers[0]);
    for (index_t i = 0; i < n; ++i) w[i] -= lr * g[i];
}

template <class T>
void momentum_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ v, T*, const double* numbers,
                     index_t n) {
    const T lr = T(numbers[0]), momentum = T(numbers[1]);
    for (index_t i = 0; i < n; ++i) {
        v[i] = momentum * v[i] - lr * g[i];
        w[i] += v[i];
    }
}

template <class T>
void nesterov_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ v, T*, const double* numbers,
                     index_t n) {
    const T lr = T(numbers[0]), momentum = T(numbers[1]);
    const T ahead = T(numbers[1] * numbers[1]), rate = T((1 + numbers[1]) * numbers[0]);
    for (index_t i = 0; i < n; ++i) {
        w[i] += ahead * v[i] - rate * g[i];
        v[i] = momentum * v[i] - lr * g[i];
    }
}

template <class T>
void adagrad_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ h, T*, const double* numbers,
                    index_t n) {
    const T lr = T(numbers[0]), epsilon = T(numbers[1]);
    for (index_t i = 0; i < n; ++i) {
        h[i] += g[i] * g[i];
        w[i] -= lr * g[i] / (square_root(h[i]) + epsilon);
    }
}

template <class T>
void rmsprop_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ h, T*, const double* numbers,
                    index_t n) {
    const T lr = T(numbers[0]), epsilon = T(numbers[1]), old = T(numbers[2]), fresh = T(1 - numbers[2]);
    for (index_t i = 0; i < n; ++i) {
        h[i] = old * h[i] + fresh * (g[i] * g[i]);
        w[i] -= lr * g[i] / (square_root(h[i]) + epsilon);
    }
}

template <class T>
void adam_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v,
                 const double* numbers, index_t n) {
    const T lr = T(numbers[0]), epsilon = T(numbers[1]);
    const T fresh_m = T(1 - numbers[2]), fresh_v = T(1 - numbers[3]);
    for (index_t i = 0; i < n; ++i) {
        m[i] += fresh_m * (g[i] - m[i]);
        v[i] += fresh_v * (g[i] * g[i] - v[i]);
        w[i] -= lr * m[i] / (square_root(v[i]) + epsilon);
    }
}

}  // namespace
}  // namespace npconv
