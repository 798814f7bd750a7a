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

template <class T, int Bytes, int NV>
void pack_rows(index_t kc, const T* src, index_t ld_src, T* dst) {
    using S = Simd<T, Bytes>;
    for (index_t k = 0; k < kc; ++k, src += ld_src, dst += NV * S::lanes) {
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) S::store(dst + v * S::lanes, S::load(src + v * S::lanes));
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

/// The same for to[j*step].
template <class T, int Lanes>
inline void add_run_apart(const T* from, T base, bool accumulate, bool relu, int n, index_t step, T* to) {
    using S = Simd<T, Lanes* static_cast<int>(sizeof(T))>;
    // Elements 0, 2, 4, ... of two vectors; not the last, as what is behind it may belong to another thread.
    for (; step == 2 && n > Lanes; n -= Lanes, from += Lanes, to += 2 * Lanes) {
        const auto lower = S::load(to), upper = S::load(to + Lanes);
        auto sum = S::load(from) + (accumulate ? S::even(lower, upper) : S::broadcast(base));
        if (relu) sum = S::relu(sum);
        S::store(to, S::alternate() ? S::interleave_lower(sum, sum) : lower);
        S::store(to + Lanes, S::alternate() ? S::interleave_upper(sum, sum) : upper);
    }
    for (; n > 0; --n, ++from, to += step) add_run<T, 1>(from, base, accumulate, relu, 1, to);
}

template <class T, int Bytes>
void store_columns(const T* tile, index_t ld_tile, index_t rows, const Segment* segments, int count, index_t step,
                   const T* bias, bool accumulate, bool relu, T* out, index_t out_plane) {
    constexpr int lanes = Simd<T, Bytes>::lanes;
    constexpr index_t line = 64 / sizeof(T), ahead = 6;  // lines of a few planes on, which no hardware foresees
    for (index_t i = 0; i < rows; ++i, tile += ld_tile, out += out_plane) {
        const T base = bias ? bias[i] : T(0);
        for (int s = 0; s < count; ++s) {
            const T* const from = tile + segments[s].column;
            const int n = segments[s].length;
            T* const to = out + segments[s].at;
            for (index_t j = 0; j < n * step; j += line) __builtin_prefetch(to + ahead * out_plane + j, 1);
            if (step == 1) {
                add_run<T, lanes>(from, base, accumulate, relu, n, to);
            } else {
                add_run_apart<T, lanes>(from, base, accumulate, relu, n, step, to);
            }
        }
    }
}

/// Turns a square of lanes x lanes elements over: element i of v[j] is src[i*ld_src + j].
template <class T, int Bytes>
NPCONV_INLINE void transpose_square(const T* src, index_t ld_src, typename Simd<T, Bytes>::Vector* v) {
    using S = Simd<T, Bytes>;
    constexpr int group = S::group;
    NPCONV_UNROLL
    for (int j = 0; j < S::lanes; j += group, v += group) {
        NPCONV_UNROLL
        for (int i = 0; i < group; ++i) v[i] = S::load_groups(src + i * ld_src + j, group * ld_src);
        // Interleaving the first half of the rows with the second, as often as it takes to halve `group` down to 1.
        NPCONV_UNROLL
        for (int round = 1; round < group; round *= 2) {
            typename S::Vector next[group];
            NPCONV_UNROLL
            for (int i = 0; i < group / 2; ++i) {
                next[2 * i] = S::interleave_lower_groups(v[i], v[i + group / 2]);
                next[2 * i + 1] = S::interleave_upper_groups(v[i], v[i + group / 2]);
            }
            NPCONV_UNROLL
            for (int i = 0; i < group; ++i) v[i] = next[i];
        }
    }
}

/// A whole square of lanes x lanes elements. A function of its own: inside the loops around it the compiler would keep
/// an address for each of its rows.
template <class T, int Bytes>
NPCONV_NOINLINE void transpose_whole(const T* src, index_t ld_src, T* dst, index_t ld_dst) {
    using S = Simd<T, Bytes>;
    typename S::Vector square[S::lanes];
    transpose_square<T, Bytes>(src, ld_src, square);
    NPCONV_UNROLL
    for (int j = 0; j < S::lanes; ++j) S::store(dst + j * ld_dst, square[j]);
    if (ld_dst <= 4 * S::lanes) return;
    // Rows of dst are planes, whose next lines no hardware foresees.
    NPCONV_UNROLL
    for (int j = 0; j < S::lanes; ++j) __builtin_prefetch(dst + j * ld_dst + 2 * S::lanes, 1);
}

/// The first rows and columns of a square, which becomes `columns` rows of `width` elements; whole vectors may be
/// written up to `end`.
template <class T, int Bytes>
NPCONV_NOINLINE void transpose_part(const T* src, index_t ld_src, index_t rows, index_t columns, T* dst, index_t ld_dst,
                                    index_t width, const T* end) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    T whole[lanes * lanes];
    for (int i = 0; i < lanes; ++i, src += ld_src) {
        const auto row = i >= rows          ? typename S::Vector{}
                         : columns >= lanes ? S::load(src)
                                            : S::load_part(src, columns);
        S::store(whole + i * lanes, row);
    }
    typename S::Vector square[lanes];
    transpose_square<T, Bytes>(whole, lanes, square);
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

/// `Stride` is the stride, or 0 for any.
template <class T, int Bytes, int Stride>
void copy_rows_of_stride(const T* src, const T* src_end, index_t ld_src, index_t stride, index_t rows, index_t n,
                         index_t left, T pad, T* dst, index_t ld_dst) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    const auto padding = S::broadcast(pad);
    for (index_t x = 0; x < left; x += lanes) S::store(dst + x, padding);
    // Whole vectors: what is written behind the end of a piece, the next piece writes again.
    for (index_t y = 0; y < rows; ++y, src += ld_src, dst += ld_dst) {
        index_t x = 0;
        if constexpr (Stride > 0) {
            for (; x < n && src_end - src >= (x + lanes) * Stride; x += lanes) {
                S::store(dst + left + x, S::template load_every<Stride>(src + x * Stride));
            }
        }
        for (; x + 8 <= n; x += 8) {
            NPCONV_UNROLL
            for (int i = 0; i < 8; ++i) dst[left + x + i] = src[(x + i) * stride];
        }
        for (; x < n; ++x) dst[left + x] = src[x * stride];
        // The padding behind a row and that before the next one.
        const index_t end = y + 1 < rows ? ld_dst + left : ld_dst;
        for (x = left + n; x < end; x += lanes) S::store(dst + x, padding);
    }
}

template <class T, int Bytes>
void copy_rows(const T* src, const T* src_end, index_t ld_src, index_t stride, index_t rows, index_t n, index_t left,
               T pad, T* dst, index_t ld_dst) {
    if (rows == 0) return;
    const auto copy = stride == 1   ? copy_rows_of_stride<T, Bytes, 1>
                      : stride == 2 ? copy_rows_of_stride<T, Bytes, 2>
                      : stride == 4 ? copy_rows_of_stride<T, Bytes, 4>
                                    : copy_rows_of_stride<T, Bytes, 0>;
    copy(src, src_end, ld_src, stride, rows, n, left, pad, dst, ld_dst);
}

}  // namespace
}  // namespace npconv
