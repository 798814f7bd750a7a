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
    // In square blocks, so that the cache lines of a block of rows stay at hand for all the columns they hold.
    constexpr index_t block = 16;
    for (index_t i0 = 0; i0 < ld_dst; i0 += block) {
        const index_t i1 = i0 + block < rows ? i0 + block : rows;
        const index_t pad_end = i0 + block < ld_dst ? i0 + block : ld_dst;
        for (index_t j = 0; j < columns; ++j) {
            T* to = dst + j * ld_dst;
            for (index_t i = i0; i < i1; ++i) to[i] = src[i * ld_src + j];
            for (index_t i = i1 > i0 ? i1 : i0; i < pad_end; ++i) to[i] = 0;
        }
    }
}

template <class T>
void copy_strided(const T* src, index_t stride, index_t n, T* dst) {
    if (stride == 1) {
        __builtin_memcpy(dst, src, static_cast<std::size_t>(n) * sizeof(T));
    } else if (stride == 2) {  // a constant stride lets the compiler use shuffles
        for (index_t i = 0; i < n; ++i) dst[i] = src[2 * i];
    } else {
        for (index_t i = 0; i < n; ++i) dst[i] = src[i * stride];
    }
}

}  // namespace
}  // namespace npconv
