// Depthwise convolution, whose lanes are channels: every tap has a vector of weights.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T, int Bytes, int Rows, int Columns>
void depthwise_taps(const T* x, const index_t* offset, index_t ld_x, index_t step_x, const T* weight, const T* bias,
                    bool relu, index_t rows, index_t n, T* y, index_t ld_y, index_t step_y) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    Vector w[Rows][Columns];
    NPCONV_UNROLL
    for (int r = 0; r < Rows; ++r) {
        NPCONV_UNROLL
        for (int c = 0; c < Columns; ++c) w[r][c] = S::load(weight + (r * Columns + c) * S::lanes);
    }
    for (index_t i = 0; i < rows; ++i, x += ld_x, y += ld_y) {
        for (index_t j = 0; j < n; ++j) {
            Vector sum[Rows] = {S::load(bias ? bias : y + j * step_y)};  // of each row: they do not wait for each other
            NPCONV_UNROLL
            for (int r = 0; r < Rows; ++r) {
                const T* const pixels = x + offset[r] + j * step_x;
                NPCONV_UNROLL
                for (int c = 0; c < Columns; ++c) sum[r] += w[r][c] * S::load(pixels + c * S::lanes);
            }
            NPCONV_UNROLL
            for (int r = 1; r < Rows; ++r) sum[0] += sum[r];
            S::store(y + j * step_y, relu ? S::relu(sum[0]) : sum[0]);
        }
    }
}

template <class T, int Bytes, int Rows, int Columns>
void depthwise_products(const T* x, const index_t* offset, index_t ld_x, index_t step_x, const T* dy, index_t rows,
                        index_t n, T* sums) {
    using S = Simd<T, Bytes>;
    typename S::Vector sum[Rows][Columns] = {};
    for (index_t i = 0; i < rows; ++i, x += ld_x) {
        for (index_t j = 0; j < n; ++j, dy += S::lanes) {
            const auto gradient = S::load(dy);
            NPCONV_UNROLL
            for (int r = 0; r < Rows; ++r) {
                const T* const pixels = x + offset[r] + j * step_x;
                NPCONV_UNROLL
                for (int c = 0; c < Columns; ++c) sum[r][c] += gradient * S::load(pixels + c * S::lanes);
            }
        }
    }
    NPCONV_UNROLL
    for (int r = 0; r < Rows; ++r) {
        NPCONV_UNROLL
        for (int c = 0; c < Columns; ++c, sums += S::lanes) S::store(sums, S::load(sums) + sum[r][c]);
    }
}

}  // namespace
}  // namespace npconv
