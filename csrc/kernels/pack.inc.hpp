// Packing: the copies that put operands into the order in which the micro-kernels read them.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T, int Bytes, int NV>
void pack_columns(index_t kc, const T* src, const index_t* src_row, const Segment* segments, int count, T* dst) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    for (index_t k = 0; k < kc; ++k) {
        const T* row = src + src_row[k];
        // Whole vectors: what a segment writes behind its end, the next segment or the next row writes again.
        for (int s = 0; s < count; ++s) {
            const T* from = row + segments[s].src;
            T* to = dst + segments[s].column;
            for (int j = 0; j < segments[s].length; j += lanes) S::store(to + j, S::load(from + j));
        }
        dst += NV * lanes;
    }
}

template <class T>
void pack_transposed(const T* src, index_t ld_src, index_t rows, index_t columns, T* dst, index_t ld_dst) {
    // Runs of a row that are long enough for the prefetcher, into a piece of dst that stays in the L1 cache.
    constexpr index_t run = 128;
    for (index_t j0 = 0; j0 < columns; j0 += run) {
        const index_t j1 = j0 + run < columns ? j0 + run : columns;
        for (index_t i = 0; i < rows; ++i) {
            const T* from = src + i * ld_src;
            for (index_t j = j0; j < j1; ++j) dst[j * ld_dst + i] = from[j];
        }
        for (index_t i = rows; i < ld_dst; ++i) {
            for (index_t j = j0; j < j1; ++j) dst[j * ld_dst + i] = 0;
        }
    }
}

template <class T>
void copy_rows(const T* src, index_t ld_src, index_t stride, index_t rows, index_t n, T* dst, index_t ld_dst) {
    for (index_t y = 0; y < rows; ++y, src += ld_src, dst += ld_dst) {
        // The same loop thrice: a constant stride lets the compiler use vectors.
        if (stride == 1) {
            for (index_t x = 0; x < n; ++x) dst[x] = src[x];
        } else if (stride == 2) {
            for (index_t x = 0; x < n; ++x) dst[x] = src[2 * x];
        } else {
            for (index_t x = 0; x < n; ++x) dst[x] = src[x * stride];
        }
    }
}

}  // namespace
}  // namespace npconv
