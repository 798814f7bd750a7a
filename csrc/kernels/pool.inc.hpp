// Max pooling, vectorised along the row.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T, int Bytes>
void max_pool_row(int count, const T* const* taps, const std::int32_t* code, const std::int32_t* first, index_t n, T* y,
                  std::int32_t* arg) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    // A comparison gives integers as wide as T, but 32 bits are enough to say where.
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    typedef std::int32_t Int32Vector __attribute__((vector_size(4 * lanes)));

    for (index_t j = 0; j < n; j += lanes) {
        Vector best = S::broadcast(-static_cast<T>(__builtin_inff()));
        // Taps come in row-major order. "Strictly greater" keeps the first of equals; a NaN always takes over, so the
        // last one stays.
        if (arg) {
            Int32Vector start;
            __builtin_memcpy(&start, first + j, sizeof start);
            IntVector where = __builtin_convertvector(start, IntVector);
            for (int t = 0; t < count; ++t) {
                const Vector v = S::load(taps[t] + j);
                const IntVector take = (v > best) | (v != v);
                best = take ? v : best;
                where = take ? IntVector{} + static_cast<Int>(code[t]) : where;
            }
            const Int32Vector result = __builtin_convertvector(where, Int32Vector);
            __builtin_memcpy(arg + j, &result, sizeof result);
        } else {
            for (int t = 0; t < count; ++t) {
                const Vector v = S::load(taps[t] + j);
                best = ((v > best) | (v != v)) ? v : best;
            }
        }
        if (n - j >= lanes) {
            S::store(y + j, best);
        } else {
            S::store_part(y + j, best, n - j);
        }
    }
}

inline void window_indices(const std::int32_t* arg, index_t base, index_t step, index_t n, index_t* index) {
    for (index_t j = 0; j < n; ++j) index[j] = base + j * step + arg[j];
}

}  // namespace
}  // namespace npconv
