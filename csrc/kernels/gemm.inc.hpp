// The micro-kernels. Each keeps an M x (NV vectors) tile of C in registers and adds one rank-1 update per step:
// a broadcast element of the left operand times NV vectors of the right one. T is the type of the elements, Bytes the
// size of a vector; kernels.hpp describes the arguments, under the same names.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

/// Rows are output channels, whose weights are broadcast; columns are pixels.
template <class T, int Bytes, int M, int NV>
void gemm_tile(index_t kc, const T* a, index_t lda, const T* b, const index_t* b_row, T* c, index_t ldc, int n,
               const T* bias, bool accumulate, bool relu, const T* next, index_t ld_next) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    constexpr int nr = NV * lanes;

    // Where the next tile to the right will be stored, a line per step: by then it has come.
    const auto fetch = [&](index_t line) { __builtin_prefetch(c + line / NV * ldc + nr + line % NV * lanes, 1); };
    for (index_t line = kc; line < M * NV; ++line) fetch(line);

    Vector acc[M][NV] = {};
    for (index_t k = 0; k < kc; ++k) {
        const T* row = b + b_row[k];
        if (k < M * NV) fetch(k);
        __builtin_prefetch(next, 0, 2);
        next += ld_next;
        Vector bv[NV];
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) bv[v] = S::load(row + v * lanes);
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) {
            const Vector ai = S::broadcast(a[i]);
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[i][v] += ai * bv[v];
        }
        a += lda;
    }

    // A whole tile is stored straight from the registers; the last columns of a row go through memory, so that
    // nothing is read or written behind them.
    if (n == nr) {
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) {
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                T* p = c + i * ldc + v * lanes;
                Vector sum = acc[i][v];
                if (accumulate) {
                    sum += S::load(p);
                } else if (bias) {
                    sum += S::broadcast(bias[i]);
                }
                S::store(p, relu ? S::relu(sum) : sum);
            }
        }
    } else {
        T tile[M][nr];
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) {
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) S::store(tile[i] + v * lanes, acc[i][v]);
        }
        for (int i = 0; i < M; ++i) {
            for (int j = 0; j < n; ++j) {
                T sum = tile[i][j];
                if (accumulate) {
                    sum += c[i * ldc + j];
                } else if (bias) {
                    sum += bias[i];
                }
                c[i * ldc + j] = relu && sum <= 0 ? 0 : sum;
            }
        }
    }
}

/// Rows are pixels, which are broadcast from wherever they lie; columns are output channels: NV vectors of the NR that
/// a packed panel of weights has.
template <class T, int Bytes, int M, int NV, int NR>
void pixel_gemm_tile(index_t kc, const T* a, const index_t* a_row, const T* b, T* c, const T* bias, bool accumulate,
                     bool relu) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;

    Vector acc[M][NV] = {};
    for (index_t k = 0; k < kc; ++k) {
        const T* const pixels = a + a_row[k];
        Vector bv[NV];
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) bv[v] = S::load(b + v * lanes);
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) {
            const Vector ai = S::broadcast(pixels[i]);
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[i][v] += ai * bv[v];
        }
        b += NR;
    }
    NPCONV_UNROLL
    for (int v = 0; v < NV; ++v) {
        const Vector base = bias && !accumulate ? S::load(bias + v * lanes) : Vector{};
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) {
            T* const p = c + i * NR + v * lanes;
            const Vector sum = acc[i][v] + (accumulate ? S::load(p) : base);
            S::store(p, relu ? S::relu(sum) : sum);
        }
    }
}

/// The sum runs along rows of pixels, as in a weight gradient: rows are (input channel, tap) pairs, columns output
/// channels.
template <class T, int Bytes, int M, int NV>
void row_gemm_tile(index_t rows, index_t width, const T* a, const index_t* a_row, index_t ld_a, const T* b,
                   index_t ld_b, T* c, index_t ldc, bool accumulate) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;

    Vector acc[M][NV] = {};
    for (index_t y = 0; y < rows; ++y) {
        const T* row[M];
        NPCONV_UNROLL
        for (int i = 0; i < M; ++i) row[i] = a + a_row[i] + y * ld_a;
        for (index_t x = 0; x < width; ++x) {
            Vector bv[NV];
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) bv[v] = S::load(b + v * lanes);
            NPCONV_UNROLL
            for (int i = 0; i < M; ++i) {
                const Vector ai = S::broadcast(row[i][x]);
                NPCONV_UNROLL
                for (int v = 0; v < NV; ++v) acc[i][v] += ai * bv[v];
            }
            b += ld_b;
        }
    }
    NPCONV_UNROLL
    for (int i = 0; i < M; ++i) {
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            T* p = c + i * ldc + v * lanes;
            S::store(p, accumulate ? S::load(p) + acc[i][v] : acc[i][v]);
        }
    }
}

}  // namespace
}  // namespace npconv
