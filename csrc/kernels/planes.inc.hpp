// Convolution of single planes, for groups of few channels: vectors along a row, several rows at a time.
#pragma once

#include "simd.hpp"
#include "sums.inc.hpp"

namespace npconv {
namespace {

/// Rows [first, rows): in blocks of R, what is left of them in blocks of half as many, and so on. A block, and the last
/// vector of a row, may overlap the one before: the same sums again are cheaper than parts of them. A pixel is loaded
/// once for all the taps of a run, which meet it on behalf of one row after the other. Vectors of results within
/// [whole_from, whole_to) meet pixels within [0, width) alone.
template <class T, int Bytes, int Run, int R>
void weighted_rows_from(index_t first, index_t whole_from, index_t whole_to, index_t runs, const T* const* row,
                        const index_t* column, index_t width, const T* weight, T bias, bool relu, index_t rows,
                        index_t n, T* y, index_t ld_y) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    constexpr index_t line = 64 / sizeof(T);  // of the cache
    for (; rows - first >= R || (rows - first > R / 2 && rows >= R); first += R) {
        if (rows - first < R) first = rows - R;
        const T* from[R + Run - 1];
        NPCONV_UNROLL
        for (int r = 0; r < R + Run - 1; ++r) from[r] = row[first + r];
        for (index_t next = 0; next < n; next += lanes) {
            const index_t j = n - next < lanes && n >= lanes ? n - lanes : next;
            Vector sum[R];
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) sum[r] = S::broadcast(bias);
            // Long rows are as many streams as the block has rows, more than a CPU fetches ahead by itself.
            if (n > 2 * line && j % line == 0 && first + 2 * R <= rows) {
                NPCONV_UNROLL
                for (int r = 0; r < R; ++r) __builtin_prefetch(row[first + R + Run - 1 + r] + j);
            }
            const auto add = [&](auto inside) {
                for (index_t k = 0; k < runs; ++k) {
                    const index_t at = column[k] + j;
                    const auto lanes_of = inside(at);
                    Vector w[Run];
                    NPCONV_UNROLL
                    for (int t = 0; t < Run; ++t) w[t] = S::broadcast(weight[k * Run + t]);
                    NPCONV_UNROLL
                    for (int p = 0; p < R + Run - 1; ++p) {
                        const Vector pixels = lanes_of(S::load(from[p] + at));
                        NPCONV_UNROLL
                        for (int t = 0; t < Run; ++t) {
                            if (p - t >= 0 && p - t < R) sum[p - t] += w[t] * pixels;
                        }
                    }
                }
            };
            if (j >= whole_from && j + lanes <= whole_to) {
                add([](index_t) { return [](Vector v) { return v; }; });
            } else {
                add([&](index_t at) {
                    const auto mask = S::first(width - at < lanes ? width - at : lanes) & ~S::first(-at);
                    return [mask](Vector v) { return S::masked(v, mask); };
                });
            }
            T* const to = y + first * ld_y + j;
            // Rows shorter than a vector are written beyond their ends where the next row follows at once.
            const index_t end = ld_y == n ? (R - 1) * ld_y + n : 0;
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) {
                if (relu) sum[r] = S::relu(sum[r]);
                if (n >= lanes || r * ld_y + lanes <= end) {
                    S::store(to + r * ld_y, sum[r]);
                } else {
                    S::store_part(to + r * ld_y, sum[r], n);
                }
            }
        }
    }
    if constexpr (R > 1) {
        weighted_rows_from<T, Bytes, Run, R / 2>(first, whole_from, whole_to, runs, row, column, width, weight, bias,
                                                 relu, rows, n, y, ld_y);
    }
}

template <class T, int Bytes, int Run, int R>
void weighted_rows(index_t runs, const T* const* row, const index_t* column, index_t width, const T* weight, T bias,
                   bool relu, index_t rows, index_t n, T* y, index_t ld_y) {
    index_t leftmost = 0, rightmost = 0;
    for (index_t k = 0; k < runs; ++k) {
        leftmost = column[k] < leftmost ? column[k] : leftmost;
        rightmost = column[k] > rightmost ? column[k] : rightmost;
    }
    weighted_rows_from<T, Bytes, Run, R>(0, -leftmost, width - rightmost, runs, row, column, width, weight, bias, relu,
                                         rows, n, y, ld_y);
}

/// Adds to the sums of G runs what n columns of R rows at a time give, then of half as many rows, and so on.
template <class T, int Bytes, int Run, int G, int R>
NPCONV_INLINE void add_products(const T* x, const index_t* offset, const T* dy, index_t ld_dy, index_t rows,
                                index_t ld_x, index_t n, typename Simd<T, Bytes>::IntVector inside,
                                typename Simd<T, Bytes>::Vector (&sum)[G][Run]) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    const auto add = [&](index_t j, auto lanes_of) {
        Vector gradient[R];
        NPCONV_UNROLL
        for (int r = 0; r < R; ++r) gradient[r] = lanes_of(S::load(dy + r * ld_dy + j));
        NPCONV_UNROLL
        for (int g = 0; g < G; ++g) {
            const T* const from = x + offset[g] + j;
            Vector pixels[R + Run - 1];
            NPCONV_UNROLL
            for (int r = 0; r < R + Run - 1; ++r) pixels[r] = lanes_of(S::load(from + r * ld_x));
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) {
                NPCONV_UNROLL
                for (int t = 0; t < Run; ++t) sum[g][t] += gradient[r] * pixels[r + t];
            }
        }
    };
    for (; rows >= R; rows -= R, x += R * ld_x, dy += R * ld_dy) {
        index_t j = 0;
        for (; n - j >= lanes; j += lanes) add(j, [](Vector v) { return v; });
        if (j < n) add(j, [inside](Vector v) { return S::masked(v, inside); });
    }
    if constexpr (R > 1) add_products<T, Bytes, Run, G, R / 2>(x, offset, dy, ld_dy, rows, ld_x, n, inside, sum);
}

/// G runs at a time, what is left of them one by one.
template <class T, int Bytes, int Run, int G>
void products_of_runs(index_t runs, const T* x, const index_t* offset, const T* dy, index_t ld_dy, index_t rows,
                      index_t ld_x, index_t n, T* sums) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    // Beyond the end of a row there may be an infinity, which times 0 would not be 0.
    const auto inside = S::first(n % lanes);
    for (; runs >= G; runs -= G, offset += G) {
        typename S::Vector sum[G][Run] = {};
        add_products<T, Bytes, Run, G, 4>(x, offset, dy, ld_dy, rows, ld_x, n, inside, sum);
        for (int g = 0; g < G; ++g) {
            for (int t = 0; t < Run; ++t) *sums++ += sum_of_lanes<T, lanes>(sum[g][t]);
        }
    }
    if constexpr (G > 1) products_of_runs<T, Bytes, Run, 1>(runs, x, offset, dy, ld_dy, rows, ld_x, n, sums);
}

/// For M planes of dy: taps in blocks of K, what is left of them in blocks of half as many, and so on.
template <class T, int Bytes, int K, int M>
void products_of_planes(index_t count, const T* x, const index_t* offset, index_t rows, index_t ld_x, index_t n,
                        const T* const* dy, index_t ld_dy, T* sums, index_t ld_sums) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes;
    // Beyond the end of a row there may be an infinity, which times 0 would not be 0.
    const auto inside = S::first(n % lanes);
    for (; count >= K; count -= K, offset += K, sums += K) {
        Vector sum[M][K] = {};
        for (index_t y = 0; y < rows; ++y) {
            const T* const row = x + y * ld_x;
            index_t j = 0;
            for (; n - j >= lanes; j += lanes) {
                Vector gradient[M];
                NPCONV_UNROLL
                for (int m = 0; m < M; ++m) gradient[m] = S::load(dy[m] + y * ld_dy + j);
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) {
                    const Vector pixels = S::load(row + offset[k] + j);
                    NPCONV_UNROLL
                    for (int m = 0; m < M; ++m) sum[m][k] += gradient[m] * pixels;
                }
            }
            if (j < n) {
                Vector gradient[M];
                NPCONV_UNROLL
                for (int m = 0; m < M; ++m) gradient[m] = S::masked(S::load(dy[m] + y * ld_dy + j), inside);
                NPCONV_UNROLL
                for (int k = 0; k < K; ++k) {
                    const Vector pixels = S::masked(S::load(row + offset[k] + j), inside);
                    NPCONV_UNROLL
                    for (int m = 0; m < M; ++m) sum[m][k] += gradient[m] * pixels;
                }
            }
        }
        NPCONV_UNROLL
        for (int m = 0; m < M; ++m) {
            NPCONV_UNROLL
            for (int k = 0; k < K; ++k) sums[m * ld_sums + k] += sum_of_lanes<T, lanes>(sum[m][k]);
        }
    }
    if constexpr (K > 1) {
        products_of_planes<T, Bytes, K / 2, M>(count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
}

/// Planes in blocks of M, what is left of them in blocks of half as many, and so on; `Sums` are in registers at a time.
template <class T, int Bytes, int Sums, int M = 4>
void products_of_rows(index_t planes, index_t count, const T* x, const index_t* offset, index_t rows, index_t ld_x,
                      index_t n, const T* const* dy, index_t ld_dy, T* sums, index_t ld_sums) {
    for (; planes >= M; planes -= M, dy += M, sums += M * ld_sums) {
        products_of_planes<T, Bytes, Sums / M, M>(count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
    if constexpr (M > 1) {
        products_of_rows<T, Bytes, Sums, M / 2>(planes, count, x, offset, rows, ld_x, n, dy, ld_dy, sums, ld_sums);
    }
}

}  // namespace
}  // namespace npconv
