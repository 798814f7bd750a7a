// Convolution of single planes, for groups of few channels: vectors along a row, several rows at a time.
#pragma once

#include "simd.hpp"
#include "sums.inc.hpp"

namespace npconv {
namespace {

/// Rows in blocks of R, what is left of them in blocks of half as many, and so on.
template <class T, int Bytes, int R>
void weighted_rows(index_t count, const T* x, const index_t* offset, const T* weight, T bias, index_t rows,
                   index_t ld_x, index_t n, T* y, index_t ld_y) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    for (; rows >= R; rows -= R, x += R * ld_x, y += R * ld_y) {
        for (index_t j = 0; j < n; j += lanes) {
            typename S::Vector sum[R];
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) sum[r] = S::broadcast(bias);
            for (index_t t = 0; t < count; ++t) {
                const T* const from = x + offset[t] + j;
                const auto w = S::broadcast(weight[t]);
                NPCONV_UNROLL
                for (int r = 0; r < R; ++r) sum[r] += w * S::load(from + r * ld_x);
            }
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) {
                if (n - j >= lanes) {
                    S::store(y + r * ld_y + j, sum[r]);
                } else {
                    S::store_part(y + r * ld_y + j, sum[r], n - j);
                }
            }
        }
    }
    if constexpr (R > 1) {
        weighted_rows<T, Bytes, R / 2>(count, x, offset, weight, bias, rows, ld_x, n, y, ld_y);
    }
}

/// Taps in blocks of K, what is left of them in blocks of half as many, and so on.
template <class T, int Bytes, int K>
void products_of_rows(index_t count, const T* x, const index_t* offset, index_t rows, index_t ld_x, index_t n,
                      const T* dy, index_t ld_dy, T* sums) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    constexpr int lanes = S::lanes;
    // Beyond the end of a row there may be an infinity, which times 0 would not be 0.
    typename S::IntVector inside = {};
    for (int l = 0; l < n % lanes; ++l) inside[l] = static_cast<Int>(-1);
    for (; count >= K; count -= K, offset += K, sums += K) {
        Vector sum[K] = {};
        for (index_t y = 0; y < rows; ++y) {
            const T *const row = x + y * ld_x, *const gradients = dy + y * ld_dy;
            index_t j = 0;
            for (; n - j >= lanes; j += lanes) {
                const Vector gradient = S::load(gradients + j);
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) sum[k] += gradient * S::load(row + offset[k] + j);
            }
            if (j < n) {
                const Vector gradient = S::load_part(gradients + j, n - j);
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) {
                    const auto pixels = reinterpret_cast<typename S::IntVector>(S::load(row + offset[k] + j));
                    sum[k] += gradient * reinterpret_cast<Vector>(pixels & inside);
                }
            }
        }
        NPCONV_UNROLL
        for (int k = 0; k < K; ++k) sums[k] += sum_of_lanes<T, lanes>(sum[k]);
    }
    if constexpr (K > 1) {
        products_of_rows<T, Bytes, K / 2>(count, x, offset, rows, ld_x, n, dy, ld_dy, sums);
    }
}

}  // namespace
}  // namespace npconv
