// Max pooling, vectorised along the row.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class Vector, class Index>
inline void store_indices(const Vector& at, Index* index, index_t n) {
    if (n * sizeof(Index) == sizeof at) {
        __builtin_memcpy(index, &at, sizeof at);
    } else {
        __builtin_memcpy(index, &at, static_cast<std::size_t>(n) * sizeof(Index));
    }
}

/// Without `Indexed`, half of the work falls away.
template <class T, int Bytes, int Stride, bool Indexed>
void max_pool_rows_of(int count, const T* x, const index_t* offset, const std::int32_t* code, const std::int32_t* first,
                      index_t rows, index_t ld_x, index_t base_step, index_t n, T* y, const T* y_end, index_t base,
                      index_t step, index_t* index, std::int32_t* short_index, bool relu) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    // A comparison gives integers as wide as T, but 32 bits are enough to say where in a window.
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    using Int32Vector = typename VectorOf<std::int32_t, 4 * lanes>::type;
    using IndexVector = typename VectorOf<index_t, 8 * lanes>::type;
    Int32Vector lane = {};
    NPCONV_UNROLL
    for (int l = 0; l < lanes; ++l) lane[l] = l;

    for (index_t row = 0; row < rows; ++row, x += ld_x, y += n, base += base_step) {
        for (index_t j = 0; j < n; j += lanes) {
            const bool whole = y_end - (y + j) >= lanes;
            const auto tap = [&](int t) {
                const T* const pixels = x + offset[t] + Stride * j;
                return Stride == 1 ? S::load(pixels) : S::even(S::load(pixels), S::load(pixels + lanes));
            };
            // Which pixel it is only matters if some tap is more than minus infinity.
            Vector best = Indexed ? S::broadcast(-static_cast<T>(__builtin_inff())) : tap(0);
            IntVector where = IntVector{} + static_cast<Int>(code[0]);
            if (first) {
                Int32Vector start;
                __builtin_memcpy(&start, first + j, sizeof start);
                where = __builtin_convertvector(start, IntVector);
            }
            for (int t = Indexed ? 0 : 1; t < count; ++t) {
                const Vector v = tap(t);
                // Taps come in row-major order. "Strictly greater" keeps the first of equals; a NaN always takes over,
                // so the last one stays.
                const IntVector take = (v > best) | (v != v);
                best = take ? v : best;
                if constexpr (Indexed) where = take ? IntVector{} + static_cast<Int>(code[t]) : where;
            }
            IntVector cut = {};
            if (relu) {
                cut = best <= 0;
                best = cut ? Vector{} : best;
            }
            const index_t count_here = n - j < lanes ? n - j : lanes;
            if (whole) {
                S::store(y + j, best);
            } else {
                S::store_part(y + j, best, count_here);
            }
            if constexpr (!Indexed) continue;
            // A lane that is cut holds -1: all bits set.
            if (index) {
                IndexVector at = __builtin_convertvector(lane, IndexVector) * step + (base + j * step) +
                                 __builtin_convertvector(where, IndexVector);
                at |= __builtin_convertvector(cut, IndexVector);
                store_indices(at, index + j, whole ? lanes : count_here);
            } else if (short_index) {
                Int32Vector at = lane * static_cast<std::int32_t>(step) + static_cast<std::int32_t>(base + j * step) +
                                 __builtin_convertvector(where, Int32Vector);
                at |= __builtin_convertvector(cut, Int32Vector);
                store_indices(at, short_index + j, whole ? lanes : count_here);
            }
        }
        if (index) index += n;
        if (short_index) short_index += n;
    }
}

template <class T, int Bytes, int Stride>
void max_pool_rows(int count, const T* x, const index_t* offset, const std::int32_t* code, const std::int32_t* first,
                   index_t rows, index_t ld_x, index_t base_step, index_t n, T* y, const T* y_end, index_t base,
                   index_t step, index_t* index, std::int32_t* short_index, bool relu) {
    const auto pool =
        index || short_index ? max_pool_rows_of<T, Bytes, Stride, true> : max_pool_rows_of<T, Bytes, Stride, false>;
    pool(count, x, offset, code, first, rows, ld_x, base_step, n, y, y_end, base, step, index, short_index, relu);
}

template <class T, int Bytes, int NV, bool Indexed>
void relu_pool_pixels_of(index_t count, index_t step, int taps, const T* x, const index_t* offset,
                         const std::int32_t* code, std::int32_t first, std::int32_t index_step, T* y,
                         std::int32_t* index) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    constexpr int lanes = S::lanes;
    using Int32Vector = typename VectorOf<std::int32_t, 4 * lanes>::type;
    for (index_t w = 0; w < count; ++w, x += step, first += index_step, y += NV * lanes) {
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            Vector best = S::load(x + offset[0] + v * lanes);
            IntVector where = IntVector{} + static_cast<Int>(first + code[0]);
            for (int t = 1; t < taps; ++t) {
                const Vector pixel = S::load(x + offset[t] + v * lanes);
                const IntVector take = (pixel > best) | (pixel != pixel);  // as in max_pool_rows
                best = take ? pixel : best;
                if constexpr (Indexed) where = take ? IntVector{} + static_cast<Int>(first + code[t]) : where;
            }
            const IntVector cut = best <= 0;
            S::store(y + v * lanes, cut ? Vector{} : best);
            if constexpr (!Indexed) continue;
            const Int32Vector at = __builtin_convertvector(where | cut, Int32Vector);
            __builtin_memcpy(index + w * NV * lanes + v * lanes, &at, sizeof at);
        }
    }
}

template <class T, int Bytes, int NV>
void relu_pool_pixels(index_t count, index_t step, int taps, const T* x, const index_t* offset,
                      const std::int32_t* code, std::int32_t first, std::int32_t index_step, T* y,
                      std::int32_t* index) {
    const auto pool = index ? relu_pool_pixels_of<T, Bytes, NV, true> : relu_pool_pixels_of<T, Bytes, NV, false>;
    pool(count, step, taps, x, offset, code, first, index_step, y, index);
}

template <class T, int Bytes, int NV>
void unpool_pixels(index_t count, index_t width, const T* dy, const std::int32_t* index, std::int32_t first, T* out) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    constexpr int lanes = S::lanes;
    using Int32Vector = typename VectorOf<std::int32_t, 4 * lanes>::type;
    for (index_t w = 0; w < count; ++w, dy += NV * lanes, index += NV * lanes) {
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            const Vector gradient = S::load(dy + v * lanes);
            Int32Vector at;
            __builtin_memcpy(&at, index + v * lanes, sizeof at);
            const IntVector where = __builtin_convertvector(at, IntVector);
            for (index_t d = 0; d < width; ++d) {
                const IntVector here = where == static_cast<Int>(first + d);
                S::store(out + d * NV * lanes + v * lanes, here ? gradient : Vector{});
            }
        }
        first += static_cast<std::int32_t>(width);
        out += width * NV * lanes;
    }
}

}  // namespace
}  // namespace npconv
