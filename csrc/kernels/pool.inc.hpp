// Max pooling, vectorised along the row or along the channels.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

/// The first n elements of a vector, all of them if n is their number.
template <class Vector, class Element>
inline void store_first(const Vector& v, Element* to, index_t n) {
    if (n * sizeof(Element) == sizeof v) {
        __builtin_memcpy(to, &v, sizeof v);
    } else {
        __builtin_memcpy(to, &v, static_cast<std::size_t>(n) * sizeof(Element));
    }
}

/// max_pool_rows, or with `Relu` relu_max_pool_rows. Without `Located`, half of the work falls away: neither `index`
/// nor `tap` is written.
template <class T, int Bytes, int Stride, bool Located, bool Relu>
void pool_rows(int count, const T* x, const index_t* offset, const std::int32_t* code, const std::int32_t* first,
               index_t rows, index_t ld_x, index_t base_step, index_t n, T* y, const T* y_end, index_t base,
               index_t step, index_t* index, std::uint8_t* tap) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    // A comparison gives integers as wide as T, but 32 bits are enough to say where in a window.
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    using Int32Vector = typename VectorOf<std::int32_t, 4 * lanes>::type;
    using IndexVector = typename VectorOf<index_t, 8 * lanes>::type;
    using TapVector = typename VectorOf<std::uint8_t, lanes>::type;
    Int32Vector lane = {};
    NPCONV_UNROLL
    for (int l = 0; l < lanes; ++l) lane[l] = l;
    const index_t taps_of_row = (n + windows_per_word - 1) / windows_per_word * windows_per_word;

    for (index_t row = 0; row < rows; ++row, x += ld_x, y += n, base += base_step) {
        for (index_t j = 0; j < n; j += lanes) {
            const bool whole = y_end - (y + j) >= lanes;
            const T* const pixels = x + Stride * j;
            const auto pixels_of = [&](int t) {
                const T* const from = pixels + offset[t];
                return S::template load_every<Stride>(from);
            };
            // Which pixel it is only matters if some tap is more than minus infinity.
            Vector best = Located ? S::broadcast(-static_cast<T>(__builtin_inff())) : pixels_of(0);
            IntVector where = IntVector{} + static_cast<Int>(Relu ? 0 : code[0]);
            if (first) {
                Int32Vector start;
                __builtin_memcpy(&start, first + j, sizeof start);
                where = __builtin_convertvector(start, IntVector);
            }
            // Taps come in row-major order. "Strictly greater" keeps the first of equals; a NaN always takes over, so
            // the last one stays.
            const auto meet = [&](int t, const Vector& v) {
                const IntVector take = (v > best) | (v != v);
                best = take ? v : best;
                if constexpr (Located) where = take ? IntVector{} + static_cast<Int>(Relu ? t : code[t]) : where;
            };
            for (int t = Located ? 0 : 1; t < count; ++t) {
                if constexpr (Stride == 2 && !Located && Bytes == 64) {     // narrower ones are quicker one by one
                    if (t + 1 < count && offset[t + 1] == offset[t] + 1) {  // each has half of the same pixels
                        const Vector lower = S::load(pixels + offset[t]), upper = S::load(pixels + offset[t] + lanes);
                        meet(t, S::even(lower, upper));
                        meet(++t, S::odd(lower, upper));
                        continue;
                    }
                }
                meet(t, pixels_of(t));
            }
            if constexpr (Relu) {
                const IntVector cut = best <= 0;
                best = cut ? Vector{} : best;
                where |= cut;  // all bits set, the lowest eight of them no_tap
            }
            const index_t count_here = n - j < lanes ? n - j : lanes;
            if (whole) {
                S::store(y + j, best);
            } else {
                S::store_part(y + j, best, count_here);
            }
            if constexpr (!Located) continue;
            if constexpr (Relu) {
                const Int32Vector at = __builtin_convertvector(where, Int32Vector);
                store_first(__builtin_convertvector(at & no_tap, TapVector), tap + j, whole ? lanes : count_here);
            } else {
                const IndexVector at = __builtin_convertvector(lane, IndexVector) * step + (base + j * step) +
                                       __builtin_convertvector(where, IndexVector);
                store_first(at, index + j, whole ? lanes : count_here);
            }
        }
        if constexpr (!Located) continue;
        if constexpr (Relu) {
            for (index_t j = n; j < taps_of_row; ++j) tap[j] = 0;
            tap += taps_of_row;
        } else {
            index += n;
        }
    }
}

template <class T, int Bytes, int Stride>
void max_pool_rows(int count, const T* x, const index_t* offset, const std::int32_t* code, const std::int32_t* first,
                   index_t rows, index_t ld_x, index_t base_step, index_t n, T* y, const T* y_end, index_t base,
                   index_t step, index_t* index) {
    const auto pool = index ? pool_rows<T, Bytes, Stride, true, false> : pool_rows<T, Bytes, Stride, false, false>;
    pool(count, x, offset, code, first, rows, ld_x, base_step, n, y, y_end, base, step, index, nullptr);
}

template <class T, int Bytes, int Stride>
void relu_max_pool_rows(int count, const T* x, const index_t* offset, index_t rows, index_t ld_x, index_t n, T* y,
                        const T* y_end, std::uint8_t* tap) {
    const auto pool = tap ? pool_rows<T, Bytes, Stride, true, true> : pool_rows<T, Bytes, Stride, false, true>;
    pool(count, x, offset, nullptr, nullptr, rows, ld_x, 0, n, y, y_end, 0, 0, nullptr, tap);
}

template <class T, int Bytes, int NV, bool Located>
void relu_pool_pixels_of(index_t count, index_t step, int taps, const T* x, const index_t* offset, T* y,
                         TapWord* word) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    constexpr int lanes = S::lanes;
    using WordVector = typename VectorOf<TapWord, static_cast<int>(sizeof(TapWord)) * lanes>::type;
    for (index_t w = 0; w < count; w += windows_per_word, word += Located ? NV * lanes : 0) {
        WordVector words[NV] = {};
        const int here = count - w < windows_per_word ? static_cast<int>(count - w) : windows_per_word;
        for (int i = 0; i < here; ++i, x += step, y += NV * lanes) {
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                Vector best = S::load(x + offset[0] + v * lanes);
                IntVector where = {};
                for (int t = 1; t < taps; ++t) {
                    const Vector pixel = S::load(x + offset[t] + v * lanes);
                    const IntVector take = (pixel > best) | (pixel != pixel);  // as in max_pool_rows
                    best = take ? pixel : best;
                    if constexpr (Located) where = take ? IntVector{} + static_cast<Int>(t) : where;
                }
                const IntVector cut = best <= 0;
                S::store(y + v * lanes, cut ? Vector{} : best);
                if constexpr (!Located) continue;
                const IntVector tap = (where | cut) & static_cast<Int>(no_tap);
                words[v] |= __builtin_convertvector(tap, WordVector) << (8 * i);
            }
        }
        if constexpr (!Located) continue;
        __builtin_memcpy(word, words, sizeof words);
    }
}

template <class T, int Bytes, int NV>
void relu_pool_pixels(index_t count, index_t step, int taps, const T* x, const index_t* offset, T* y, TapWord* word) {
    const auto pool = word ? relu_pool_pixels_of<T, Bytes, NV, true> : relu_pool_pixels_of<T, Bytes, NV, false>;
    pool(count, step, taps, x, offset, y, word);
}

template <class T, int Bytes, int NV>
void unpool_pixels(index_t count, index_t width, const T* dy, const TapWord* word, int first, T* out) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    using Int = typename S::Int;
    using IntVector = typename S::IntVector;
    constexpr int lanes = S::lanes;
    using WordVector = typename VectorOf<TapWord, static_cast<int>(sizeof(TapWord)) * lanes>::type;
    for (index_t w = 0; w < count; ++w, dy += NV * lanes, out += width * NV * lanes) {
        const TapWord* const words = word + w / windows_per_word * NV * lanes;
        const int shift = static_cast<int>(8 * (w % windows_per_word));
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            const Vector gradient = S::load(dy + v * lanes);
            WordVector four;
            __builtin_memcpy(&four, words + v * lanes, sizeof four);
            const IntVector tap = __builtin_convertvector((four >> shift) & no_tap, IntVector);
            for (index_t d = 0; d < width; ++d) {
                const IntVector here = tap == static_cast<Int>(first + d);
                S::store(out + d * NV * lanes + v * lanes, here ? gradient : Vector{});
            }
        }
    }
}

}  // namespace
}  // namespace npconv
