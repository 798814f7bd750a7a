// Convolution of single planes, for groups of few channels: vectors along a row, several rows at a time.
#pragma once

#include "simd.hpp"
#include "sums.inc.hpp"

namespace npconv {
namespace {

/// Rows in blocks of R, what is left of them in blocks of half as many, and so on. A pixel is loaded once for all the
/// taps of a run, which meet it on behalf of one row after the other.
template <class T, int Bytes, int Run, int R>
void weighted_rows(index_t runs, const T* x, const index_t* offset, const T* weight, T bias, bool relu, index_t rows,
                   index_t ld_x, index_t n, T* y, index_t ld_y) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    for (; rows >= R; rows -= R, x += R * ld_x, y += R * ld_y) {
        for (index_t next = 0; next < n; next += lanes) {
            // The last vector overlaps the one before it: the same sums again are cheaper than a part of a vector.
            const index_t j = next + lanes <= n || n < lanes ? next : n - lanes;
            Vector sum[R];
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) sum[r] = S::broadcast(bias);
            for (index_t i = 0; i < runs; ++i) {
                const T* const from = x + offset[i] + j;
                Vector w[Run];
                NPCONV_UNROLL
                for (int t = 0; t < Run; ++t) w[t] = S::broadcast(weight[i * Run + t]);
                NPCONV_UNROLL
                for (int row = 0; row < R + Run - 1; ++row) {
                    const Vector pixels = S::load(from + row * ld_x);
                    NPCONV_UNROLL
                    for (int t = 0; t < Run; ++t) {
                        if (row >= t && row < t + R) sum[row - t] += w[t] * pixels;
                    }
                }
            }
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) {
                if (relu) sum[r] = S::relu(sum[r]);
                if (n - j >= lanes) {
                    S::store(y + r * ld_y + j, sum[r]);
                } else {
                    S::store_part(y + r * ld_y + j, sum[r], n - j);
                }
            }
        }
    }
    if constexpr (R > 1) {
        weighted_rows<T, Bytes, Run, R / 2>(runs, x, offset, weight, bias, relu, rows, ld_x, n, y, ld_y);
    }
}

/// For M planes of dy: taps in blocks of K, what is left of them in blocks of half as many, and so on.
template <class T, int Bytes, int K, int M>
void products_of_planes(index_t count, const T* x, const index_t* offset, index_t rows, index_t ld_x, index_t n,
                        const T* const* dy, index_t ld_dy, T* sums, index_t ld_sums) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    constexpr int lanes = S::lanes;
    // Beyond the end of a row there may be an infinity, which times 0 would not be 0.
    typename S::IntVector inside = {};
    for (int l = 0; l < n % lanes; ++l) inside[l] = static_cast<Int>(-1);
    const auto first_lanes = [&](Vector v) {
        return reinterpret_cast<Vector>(reinterpret_cast<typename S::IntVector>(v) & inside);
    };
    for (; count >= K; count -= K, offset += K, sums += K) {
        Vector sum[M][K] = {};
        for (index_t y = 0; y < rows; ++y) {
            const T* const row = x + y * ld_x;
            index_t j = 0;
            for (; n - j >= lanes; j += lanes) {
                Vector gradient[M];
                NPCONV_UNROLL
                for (int m = 0; m < M; ++m) gradient[m] = S::load(dy[m] + y * ld_dy + j);
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) {
                    const Vector pixels = S::load(row + offset[k] + j);
                    NPCONV_UNROLL
                    for (int m = 0; m < M; ++m) sum[m][k] += gradient[m] * pixels;
                }
            }
            if (j < n) {
                Vector gradient[M];
                NPCONV_UNROLL
                for (int m = 0; m < M; ++m) gradient[m] = first_lanes(S::load(dy[m] + y * ld_dy + j));
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) {
                    const Vector pixels = first_lanes(S::load(row + offset[k] + j));
                    NPCONV_UNROLL
                    for (int m = 0; m < M; ++m) sum[m][k] += gradient[m] * pixels;
                }
            }
        }
        NPCONV_UNROLL
        for (int m = 0; m < M; ++m) {
            NPCONV_UNROLL
            for (int k = 0; k < K; ++k) sums[m * ld_sums + k] += sum_of_lanes<T, lanes>(sum[m][k]);
        }
    }
    if constexpr (K > 1) {
        products_of_planes<T, Bytes, K / 2, M>(count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
}

/// Planes in blocks of M, what is left of them in blocks of half as many, and so on; `Sums` are in registers at a time.
template <class T, int Bytes, int Sums, int M = 4>
void products_of_rows(index_t planes, index_t count, const T* x, const index_t* offset, index_t rows, index_t ld_x,
                      index_t n, const T* const* dy, index_t ld_dy, T* sums, index_t ld_sums) {
    for (; planes >= M; planes -= M, dy += M, sums += M * ld_sums) {
        products_of_planes<T, Bytes, Sums / M, M>(count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
    if constexpr (M > 1) {
        products_of_rows<T, Bytes, Sums, M / 2>(planes, count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
}

}  // namespace
}  // namespace npconv
