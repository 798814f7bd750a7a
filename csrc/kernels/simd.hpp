// A vector type over the vector extensions of GCC and Clang: arithmetic and comparison are the plain operators.
#pragma once

#include "kernels.hpp"

// Full unrolling keeps an array of accumulators in registers.
#if defined(__clang__)
#define NPCONV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define NPCONV_UNROLL _Pragma("GCC unroll 32")
#endif

namespace npconv {
namespace {

template <class T, int Bytes>
struct Simd {
    static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));
    typedef T Vector __attribute__((vector_size(Bytes)));

    static inline Vector load(const T* p) {
        Vector v;
        __builtin_memcpy(&v, p, sizeof v);  // no alignment is promised
        return v;
    }
    static inline void store(T* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }
    static inline Vector broadcast(T x) { return x - Vector{}; }  // x - 0, unlike x + 0, keeps the sign of -0
};

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

}  // namespace
}  // namespace npconv
