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
            const T* from = row + segments[s].at;
            T* to = dst + segments[s].column;
            for (int j = 0; j < segments[s].length; j += lanes) S::store(to + j, S::load(from + j));
        }
        dst += NV * lanes;
    }
}

/// to[j] = from[j] + base, or + to[j], or ReLU of that, for j < n: vectors of Lanes elements, then of half as many, and
/// so on.
template <class T, int Lanes>
inline void add_run(const T* from, T base, bool accumulate, bool relu, int n, T* to) {
    using S = Simd<T, Lanes* static_cast<int>(sizeof(T))>;
    for (; n >= Lanes; n -= Lanes, from += Lanes, to += Lanes) {
        const auto sum = S::load(from) + (accumulate ? S::load(to) : S::broadcast(base));
        S::store(to, relu ? S::relu(sum) : sum);
    }
    if constexpr (Lanes > 1) add_run<T, Lanes / 2>(from, base, accumulate, relu, n, to);
}

template <class T, int Bytes, int NV>
void add_columns(index_t kc, const T* src, const Segment* segments, int count, T* dst, const index_t* dst_row,
                 index_t apart) {
    constexpr int lanes = Simd<T, Bytes>::lanes;
    // What has just been stored is slow to read when it is not the same vector.
    for (index_t first = 0; first < apart; ++first) {
        for (index_t k = first; k < kc; k += apart) {
            for (int s = 0; s < count; ++s) {
                add_run<T, lanes>(src + k * NV * lanes + segments[s].column, T(0), true, false, segments[s].length,
                                  dst + dst_row[k] + segments[s].at);
            }
        }
    }
}

template <class T, int Bytes, int NV>
void store_columns(const T* tile, index_t rows, const Segment* segments, int count, index_t step, const T* bias,
                   bool accumulate, bool relu, T* out, index_t out_plane) {
    constexpr int lanes = Simd<T, Bytes>::lanes;
    for (index_t i = 0; i < rows; ++i, tile += NV * lanes, out += out_plane) {
        const T base = bias ? bias[i] : T(0);
        for (int s = 0; s < count; ++s) {
            const T* const from = tile + segments[s].column;
            T* const to = out + segments[s].at;
            if (step == 1) {
                add_run<T, lanes>(from, base, accumulate, relu, segments[s].length, to);
            } else {
                for (int j = 0; j < segments[s].length; ++j) {
                    const T sum = from[j] + (accumulate ? to[j * step] : base);
                    to[j * step] = relu && sum <= 0 ? 0 : sum;
                }
            }
        }
    }
}

/// Turns a square of vectors over: element i of v[j] and element j of v[i] change places.
template <class T, int Bytes>
NPCONV_INLINE void transpose_square(typename Simd<T, Bytes>::Vector* v) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    // Interleaving the first half of the rows with the second, as often as it takes to halve `lanes` down to 1.
    NPCONV_UNROLL
    for (int round = 1; round < lanes; round *= 2) {
        typename S::Vector next[lanes];
        NPCONV_UNROLL
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = S::interleave_lower(v[i], v[i + lanes / 2]);
            next[2 * i + 1] = S::interleave_upper(v[i], v[i + lanes / 2]);
        }
        NPCONV_UNROLL
        for (int i = 0; i < lanes; ++i) v[i] = next[i];
    }
}

/// A whole square of lanes x lanes elements. A function of its own: inside the loops around it the compiler would keep
/// an address for each of its rows.
template <class T, int Bytes>
NPCONV_NOINLINE void transpose_whole(const T* src, index_t ld_src, T* dst, index_t ld_dst) {
    using S = Simd<T, Bytes>;
    typename S::Vector square[S::lanes];
    NPCONV_UNROLL
    for (int i = 0; i < S::lanes; ++i, src += ld_src) square[i] = S::load(src);
    transpose_square<T, Bytes>(square);
    NPCONV_UNROLL
    for (int j = 0; j < S::lanes; ++j, dst += ld_dst) S::store(dst, square[j]);
}

/// The first rows and columns of a square, which becomes `columns` rows of `width` elements; whole vectors may be
/// written up to `end`.
template <class T, int Bytes>
NPCONV_NOINLINE void transpose_part(const T* src, index_t ld_src, index_t rows, index_t columns, T* dst, index_t ld_dst,
                                    index_t width, const T* end) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    typename S::Vector square[lanes];
    for (int i = 0; i < lanes; ++i, src += ld_src) {
        if (i >= rows) {
            square[i] = typename S::Vector{};
        } else {
            square[i] = columns >= lanes ? S::load(src) : S::load_part(src, columns);
        }
    }
    transpose_square<T, Bytes>(square);
    for (int j = 0; j < lanes && j < columns; ++j, dst += ld_dst) {
        if (width >= lanes || end - dst >= lanes) {
            S::store(dst, square[j]);
        } else {
            S::store_part(dst, square[j], width);
        }
    }
}

template <class T, int Bytes>
void pack_transposed(const T* src, index_t ld_src, index_t rows, index_t columns, T* dst, index_t ld_dst,
                     index_t width) {
    constexpr int lanes = Simd<T, Bytes>::lanes;
    // Rows of dst shorter than a vector that follow each other may be written beyond their ends, in order.
    const T* const end = width < lanes && width == ld_dst ? dst + columns * ld_dst : dst;
    const auto start = [](index_t i, index_t n) { return n - i < lanes && n >= lanes ? n - lanes : i; };
    for (index_t i = 0; i < width; i += lanes) {
        for (index_t j = 0; j < columns; j += lanes) {
            // The last square overlaps the one before it, so that it is whole, too.
            const index_t i0 = rows >= width ? start(i, width) : i, j0 = start(j, columns);
            const T* const from = src + i0 * ld_src + j0;
            T* const to = dst + j0 * ld_dst + i0;
            if (rows - i0 >= lanes && columns - j0 >= lanes && width - i0 >= lanes) {
                transpose_whole<T, Bytes>(from, ld_src, to, ld_dst);
            } else {
                transpose_part<T, Bytes>(from, ld_src, rows - i0, columns - j0, to, ld_dst, width - i0, end);
            }
        }
    }
}

template <class T, int Bytes>
void copy_rows(const T* src, const T* src_end, index_t ld_src, index_t stride, index_t rows, index_t n, index_t left,
               T pad, T* dst, index_t ld_dst) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    const auto padding = S::broadcast(pad);
    // Whole vectors: what is written behind its end, the next piece of a row or the next row writes again.
    for (index_t y = 0; y < rows; ++y, src += ld_src, dst += ld_dst) {
        for (index_t x = 0; x < left; x += lanes) S::store(dst + x, padding);
        for (index_t x = 0; x < n; x += lanes) {
            const T* const from = src + x * stride;
            T* const to = dst + left + x;
            if (stride == 1) {
                S::store(to, src_end - from >= lanes ? S::load(from) : S::load_part(from, n - x));
            } else if (stride == 2 && src_end - from >= 2 * lanes) {
                S::store(to, S::even(S::load(from), S::load(from + lanes)));
            } else if (stride == 4 && src_end - from >= 4 * lanes) {
                S::store(to, S::even(S::even(S::load(from), S::load(from + lanes)),
                                     S::even(S::load(from + 2 * lanes), S::load(from + 3 * lanes))));
            } else {
                for (index_t i = 0; i < lanes && x + i < n; ++i) to[i] = from[i * stride];
            }
        }
        for (index_t x = left + n; x < ld_dst; x += lanes) S::store(dst + x, padding);
    }
}

}  // namespace
}  // namespace npconv
