// Matrix product, for the fully connected layers: the same micro-kernel and the same threads as convolution.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// A matrix that may be stored transposed: element (i, j) is data[i*ld + j], or data[j*ld + i] if `transposed`.
template <class T>
struct Matrix {
    const T* data;
    index_t ld;
    bool transposed;
};

/// c (m, n) = a (m, k) @ b (k, n), plus bias (n) in every row unless it is null.
template <class T>
void gemm(index_t m, index_t n, index_t k, Matrix<T> a, Matrix<T> b, const T* bias, T* c);

}  // namespace npconv
