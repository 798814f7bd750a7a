// A vector type over the vector extensions of GCC and Clang: arithmetic and comparison are the plain operators.
#pragma once

#include "kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Full unrolling keeps an array of accumulators in registers.
#if defined(__clang__)
#define NPCONV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define NPCONV_UNROLL _Pragma("GCC unroll 32")
#endif

#define NPCONV_NOINLINE __attribute__((noinline))
#define NPCONV_INLINE inline __attribute__((always_inline))

namespace npconv {
namespace {

/// The integer of the same size as T: the element type of a comparison's result.
template <class T>
struct SameSizeInt;
template <>
struct SameSizeInt<float> {
    using type = std::int32_t;
};
template <>
struct SameSizeInt<double> {
    using type = std::int64_t;
};

/// A vector of `Bytes` bytes of any element type.
template <class Element, int Bytes>
struct VectorOf {
    typedef Element type __attribute__((vector_size(Bytes)));
};

template <class T, int Bytes>
struct Simd {
    static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));
    static constexpr int group = 16 / static_cast<int>(sizeof(T));  ///< elements of 16 bytes, see load_groups
    using Int = typename SameSizeInt<T>::type;
    using Vector = typename VectorOf<T, Bytes>::type;
    using IntVector = typename VectorOf<Int, Bytes>::type;

    static inline Vector load(const T* p) {
        Vector v;
        __builtin_memcpy(&v, p, sizeof v);  // no alignment is promised
        return v;
    }
    static inline void store(T* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }
    /// The same past the caches (stream.hpp); p is a multiple of the vector's size.
    static inline void stream(T* p, Vector v) {
#if defined(__x86_64__)
#if defined(__AVX512F__)
        if constexpr (Bytes == 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#endif
#if defined(__AVX__)
        if constexpr (Bytes == 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#endif
        if constexpr (Bytes == 16) _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
        store(p, v);
#endif
    }
    static inline Vector broadcast(T x) { return x - Vector{}; }  // x - 0, unlike x + 0, keeps the sign of -0

    /// 0 where v <= 0, else v: this way round a NaN passes.
    static inline Vector relu(Vector v) { return v <= 0 ? Vector{} : v; }

    /// All bits of the first n elements set, none of the others.
    static inline IntVector first(index_t n) {
        IntVector lane = {};
        NPCONV_UNROLL
        for (int l = 0; l < lanes; ++l) lane[l] = static_cast<Int>(l);
        return lane < static_cast<Int>(n);
    }
    /// All bits of elements 0, 2, 4, ... set, none of the others.
    static inline IntVector alternate() {
        IntVector lane = {};
        NPCONV_UNROLL
        for (int l = 0; l < lanes; l += 2) lane[l] = static_cast<Int>(-1);
        return lane;
    }
    /// v where `mask` is set, 0 elsewhere.
    static inline Vector masked(Vector v, IntVector mask) {
        return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & mask);
    }

    /// The first n < lanes elements; the others are 0.
    static inline Vector load_part(const T* p, index_t n) {
        Vector v = {};
        copy_part<lanes / 2>(p, &v, n);
        return v;
    }
    static inline void store_part(T* p, Vector v, index_t n) { copy_part<lanes / 2>(&v, p, n); }

    /// `group` elements from each of p, p + step, p + 2*step, ...: loading so costs no more than loading whole vectors,
    /// and what is left to shuffle stays within 16 bytes, which is the quickest.
    static inline Vector load_groups(const T* p, [[maybe_unused]] index_t step) {
#if defined(__AVX512F__)
        if constexpr (Bytes == 64) {
            const auto at = [&](index_t i) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * step)); };
            __m512 v = _mm512_castps128_ps512(at(0));
            v = _mm512_insertf32x4(v, at(1), 1);
            v = _mm512_insertf32x4(v, at(2), 2);
            return reinterpret_cast<Vector>(_mm512_insertf32x4(v, at(3), 3));
        }
#endif
#if defined(__AVX__)
        if constexpr (Bytes == 32) {
            const auto at = [&](index_t i) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * step)); };
            return reinterpret_cast<Vector>(_mm256_insertf128_ps(_mm256_castps128_ps256(at(0)), at(1), 1));
        }
#endif
        if constexpr (Bytes == 16) return load(p);
    }

    /// Elements 0, 2, 4, ... of a, then of b.
    static inline Vector even(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return 2 * i; });
    }
    /// Elements 1, 3, 5, ...
    static inline Vector odd(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return 2 * i + 1; });
    }
    /// Elements 0, Stride, 2*Stride, ...: 1, 2 or 4; whole vectors are read.
    template <int Stride>
    static inline Vector load_every(const T* p) {
        if constexpr (Stride == 1) {
            return load(p);
        } else {
            return even(load_every<Stride / 2>(p), load_every<Stride / 2>(p + lanes * Stride / 2));
        }
    }
    /// a0, b0, a1, b1, ... of the lower, or of the upper, halves of a and b.
    static inline Vector interleave_lower(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return i / 2 + i % 2 * lanes; });
    }
    static inline Vector interleave_upper(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return lanes / 2 + i / 2 + i % 2 * lanes; });
    }

    /// The same of each group of a and b.
    static inline Vector interleave_lower_groups(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return i / group * group + i % group / 2 + i % 2 * lanes; });
    }
    static inline Vector interleave_upper_groups(Vector a, Vector b) {
        return shuffle(a, b, [](int i) { return i / group * group + (group + i % group) / 2 + i % 2 * lanes; });
    }

   private:
    /// Copies n elements in pieces of a fixed size, each half of the one before: a memcpy of n would be a call.
    template <int Piece>
    static inline void copy_part(const void* from, void* to, index_t n) {
        constexpr std::size_t bytes = Piece * sizeof(T);
        if (n & Piece) __builtin_memcpy(to, from, bytes);
        if constexpr (Piece > 1) {
            const std::size_t step = n & Piece ? bytes : 0;
            copy_part<Piece / 2>(static_cast<const char*>(from) + step, static_cast<char*>(to) + step, n);
        }
    }

    /// Element i is element index(i) of a and b one after the other; compiles to one instruction or two.
    template <class Index>
    static inline Vector shuffle(Vector a, Vector b, Index index) {
#if defined(__clang__)
        Vector result = {};
        NPCONV_UNROLL
        for (int i = 0; i < lanes; ++i) result[i] = index(i) < lanes ? a[index(i)] : b[index(i) - lanes];
        return result;
#else
        IntVector mask = {};
        NPCONV_UNROLL
        for (int i = 0; i < lanes; ++i) mask[i] = index(i);
        return __builtin_shuffle(a, b, mask);
#endif
    }
};

}  // namespace
}  // namespace npconv
