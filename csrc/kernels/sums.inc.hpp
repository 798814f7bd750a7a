// Sums over runs, rows and windows: average pooling and normalization are made of them.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <int Lanes>
struct Piece {
    static constexpr int lanes = Lanes;
};

/// What is left of a loop over vectors of Lanes elements is done in vectors of half as many, and so on: body(j, piece)
/// is called for pieces that cover begin <= j < n exactly.
template <int Lanes, class Body>
inline void for_pieces(index_t begin, index_t n, Body&& body) {
    for (; n - begin >= Lanes; begin += Lanes) body(begin, Piece<Lanes>{});
    if constexpr (Lanes > 1) for_pieces<Lanes / 2>(begin, n, body);
}

template <class T, int Lanes>
using SimdOf = Simd<T, Lanes* static_cast<int>(sizeof(T))>;

/// The sum of the elements of a vector, halves added to halves: every round leaves each sum twice.
template <class T, int Lanes>
inline T sum_of_lanes(typename SimdOf<T, Lanes>::Vector v) {
    using S = SimdOf<T, Lanes>;
    if constexpr (Lanes > 1) {
        NPCONV_UNROLL
        for (int round = 1; round < Lanes; round *= 2) v = S::interleave_lower(v, v) + S::interleave_upper(v, v);
    }
    return v[0];
}

/// The sum of term(i, a vector type) over n elements: in the precision of T over some thousand elements, in double
/// beyond.
template <class T, int Bytes, class Term>
inline double sum_of(index_t n, Term&& term) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes, vectors = 4;
    constexpr index_t chunk = 64 * vectors * lanes;
    double total = 0;
    for (index_t i = 0; i < n;) {
        const index_t end = n - i < chunk ? n : i + chunk;
        typename S::Vector sum[vectors] = {};
        for (; end - i >= vectors * lanes; i += vectors * lanes) {
            NPCONV_UNROLL
            for (int v = 0; v < vectors; ++v) sum[v] += term(i + v * lanes, S{});
        }
        for (; end - i >= lanes; i += lanes) sum[0] += term(i, S{});
        total += static_cast<double>(sum_of_lanes<T, lanes>((sum[0] + sum[1]) + (sum[2] + sum[3])));
        for_pieces<lanes / 2>(i, end, [&](index_t j, auto piece) {
            constexpr int part = decltype(piece)::lanes;
            total += static_cast<double>(sum_of_lanes<T, part>(term(j, SimdOf<T, part>{})));
        });
        i = end;
    }
    return total;
}

template <class T, int Bytes>
double sum(const T* x, index_t n) {
    return sum_of<T, Bytes>(n, [&](index_t i, auto s) { return decltype(s)::load(x + i); });
}

template <class T, int Bytes>
double sum_of_products(const T* dy, const T* x, T mean, index_t n) {
    return sum_of<T, Bytes>(n, [&](index_t i, auto s) {
        using S = decltype(s);
        return S::load(dy + i) * (S::load(x + i) - S::broadcast(mean));
    });
}

template <class T, int Bytes>
double sum_of_squares(const T* x, T mean, index_t n) {
    return sum_of<T, Bytes>(n, [&](index_t i, auto s) {
        using S = decltype(s);
        const auto centred = S::load(x + i) - S::broadcast(mean);
        return centred * centred;
    });
}

template <class T, int Bytes>
void scale_and_shift(const T* x, T mean, T scale, T shift, T* y, index_t n) {
    for_pieces<Simd<T, Bytes>::lanes>(0, n, [&](index_t i, auto piece) {
        using S = SimdOf<T, decltype(piece)::lanes>;
        S::store(y + i, (S::load(x + i) - mean) * scale + shift);
    });
}

template <class T, int Bytes>
void normalization_gradient(const T* dy, const T* x, T mean, const T* factor, T* dx, index_t n) {
    const T a = factor[0], b = factor[1], c = factor[2];
    for_pieces<Simd<T, Bytes>::lanes>(0, n, [&](index_t i, auto piece) {
        using S = SimdOf<T, decltype(piece)::lanes>;
        S::store(dx + i, a * S::load(dy + i) + b * (S::load(x + i) - mean) + c);
    });
}

template <class T, int Bytes>
void average_runs(index_t count, const T* x, index_t n, T divisor, T* y) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    // The last vector of a run may overlap the one before it: what has not been added yet.
    typename S::Vector rest = {};
    NPCONV_UNROLL
    for (int l = 0; l < lanes; ++l) rest[l] = l < lanes - n % lanes ? T(0) : T(1);
    constexpr int together = lanes < 4 ? lanes : 4;  // runs whose sums do not wait for each other
    for (; count > 0; count -= lanes, y += lanes) {
        typename S::Vector sum[lanes];
        NPCONV_UNROLL
        for (int p = 0; p < lanes; p += together) {
            const T* run[together];
            NPCONV_UNROLL
            for (int q = 0; q < together; ++q) {
                run[q] = x;
                x += p + q < count - 1 ? n : 0;  // behind the last run it comes again, and is not stored
                sum[p + q] = n < lanes ? S::load_part(run[q], n) : S::load(run[q]);
            }
            index_t i = lanes;
            for (; n - i >= lanes; i += lanes) {
                NPCONV_UNROLL
                for (int q = 0; q < together; ++q) sum[p + q] += S::load(run[q] + i);
            }
            if (i < n) {
                NPCONV_UNROLL
                for (int q = 0; q < together; ++q) {
                    sum[p + q] += rest != 0 ? S::load(run[q] + n - lanes) : typename S::Vector{};
                }
            }
        }
        // Each round adds the halves of all vectors, and leaves half as many of them: element p becomes the sum of the
        // p-th.
        NPCONV_UNROLL
        for (int half = lanes / 2; half > 0; half /= 2) {
            NPCONV_UNROLL
            for (int p = 0; p < half; ++p) {
                sum[p] = S::interleave_lower(sum[p], sum[p + half]) + S::interleave_upper(sum[p], sum[p + half]);
            }
        }
        const auto average = sum[0] / divisor;
        if (count >= lanes) {
            S::store(y, average);
        } else {
            S::store_part(y, average, count);
        }
    }
}

template <class T, int Bytes>
void sum_rows(index_t rows, const T* x, index_t width, const index_t* begin, const index_t* end, const T* divisor, T* y,
              index_t ld_y) {
    constexpr int lanes = Simd<T, Bytes>::lanes, vectors = 4;  // at a time: most ranges are short
    for (index_t i = 0; i < rows; ++i, y += ld_y) {
        const T* const first = x + begin[i] * width;
        index_t done = 0;
        for (; width - done >= vectors * lanes; done += vectors * lanes) {
            using S = Simd<T, Bytes>;
            typename S::Vector sum[vectors] = {};
            const T* from = first + done;
            for (index_t r = begin[i]; r < end[i]; ++r, from += width) {
                NPCONV_UNROLL
                for (int v = 0; v < vectors; ++v) sum[v] += S::load(from + v * lanes);
            }
            NPCONV_UNROLL
            for (int v = 0; v < vectors; ++v) S::store(y + done + v * lanes, divisor ? sum[v] / divisor[i] : sum[v]);
        }
        const auto single = [&](index_t j, auto piece) {
            using S = SimdOf<T, decltype(piece)::lanes>;
            typename S::Vector sum = {};
            const T* from = first + j;
            for (index_t r = begin[i]; r < end[i]; ++r, from += width) sum += S::load(from);
            S::store(y + j, divisor ? sum / divisor[i] : sum);
        };
        for (; width - done >= lanes; done += lanes) single(done, Piece<lanes>{});
        if (done < width) for_pieces<lanes / 2>(done, width, single);
    }
}

template <class T, int Bytes, int Stride>
void average_windows(index_t n, index_t kernel, index_t stride, const T* x, const T* columns, T rows, T* y) {
    for_pieces<Simd<T, Bytes>::lanes>(0, n, [&](index_t j, auto piece) {
        using S = SimdOf<T, decltype(piece)::lanes>;
        constexpr int lanes = S::lanes;
        typename S::Vector sum = {};
        if constexpr (Stride == 1 || (Stride == 2 && lanes > 1)) {
            const T* from = x + Stride * j;
            for (index_t s = 0; s < kernel; ++s, ++from) {
                sum += S::template load_every<Stride>(from);
            }
        } else {
            for (int l = 0; l < lanes; ++l) {
                T total = 0;
                for (index_t s = 0; s < kernel; ++s) total += x[(j + l) * stride + s];
                sum[l] = total;
            }
        }
        S::store(y + j, sum / (columns ? S::load(columns + j) * rows : S::broadcast(rows)));
    });
}

/// The sum of the windows that cover pixel j*stride + phase, for `lanes` values of j; v[j] is the last of them.
template <class S, class T>
inline typename S::Vector sum_of_covering(const T* v, index_t kernel, index_t stride, index_t phase) {
    typename S::Vector sum = {};
    for (; phase < kernel; phase += stride, --v) sum += S::load(v);
    return sum;
}

template <class T, int Bytes, int Stride>
void spread_windows(index_t n, index_t kernel, index_t stride, const T* v, T divisor, T* dx) {
    if constexpr (Stride <= 2) {
        // Pixels in pieces of Stride vectors, one per phase; of an odd number, the last one is phase 0 of a window
        // more.
        for_pieces<Simd<T, Bytes>::lanes>(0, n / Stride, [&](index_t j, auto piece) {
            using S = SimdOf<T, decltype(piece)::lanes>;
            const auto first = sum_of_covering<S>(v + j, kernel, Stride, 0) / divisor;
            if constexpr (Stride == 1) {
                S::store(dx + j, first);
            } else {
                const auto second = sum_of_covering<S>(v + j, kernel, Stride, 1) / divisor;
                if constexpr (S::lanes > 1) {
                    S::store(dx + 2 * j, S::interleave_lower(first, second));
                    S::store(dx + 2 * j + S::lanes, S::interleave_upper(first, second));
                } else {
                    dx[2 * j] = first[0], dx[2 * j + 1] = second[0];
                }
            }
        });
        if (n % Stride) dx[n - 1] = sum_of_covering<SimdOf<T, 1>>(v + n / Stride, kernel, Stride, 0)[0] / divisor;
    } else {
        for (index_t phase = 0; phase < stride && phase < n; ++phase) {
            T* const to = dx + phase;
            for_pieces<Simd<T, Bytes>::lanes>(0, (n - phase - 1) / stride + 1, [&](index_t j, auto piece) {
                using S = SimdOf<T, decltype(piece)::lanes>;
                const auto sum = sum_of_covering<S>(v + j, kernel, stride, phase) / divisor;
                for (int l = 0; l < S::lanes; ++l) to[(j + l) * stride] = sum[l];
            });
        }
    }
}

}  // namespace
}  // namespace npconv
