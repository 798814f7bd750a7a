// Convolution of single planes, for groups of few channels: vectors along a row, several rows at a time.
#pragma once

#include "simd.hpp"
#include "sums.inc.hpp"

namespace npconv {
namespace {

// The pixels of a row that a vector of results meets: every Stride-th from column `at` on, and those next to them.
// There are three ways to get them: as they lie, where all are within the row; with those beyond its edges masked; and
// picked out of the one vector that holds a short row.

template <class T, int Bytes, int Stride>
struct PixelsAsTheyLie {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    index_t at;

    NPCONV_INLINE void load(const T* row, Vector (&pixels)[1]) const {
        pixels[0] = S::template load_every<Stride>(row + at);
    }
    NPCONV_INLINE void load(const T* row, Vector (&pixels)[2]) const {
        static_assert(Stride == 2);  // they are the even and the odd ones of the same vectors
        const Vector lower = S::load(row + at), upper = S::load(row + at + S::lanes);
        pixels[0] = S::even(lower, upper);
        pixels[1] = S::odd(lower, upper);
    }
};

template <class T, int Bytes, int Stride>
struct PixelsMasked {
    using S = Simd<T, Bytes>;
    PixelsAsTheyLie<T, Bytes, Stride> all;
    typename S::IntVector mask[2];

    PixelsMasked(index_t at, index_t width, typename S::IntVector wanted) : all{at} {
        NPCONV_UNROLL
        for (int c = 0; c < 2; ++c, ++at) {
            const index_t end = (width - at + Stride - 1) / Stride;
            mask[c] = wanted & S::first(end < S::lanes ? end : S::lanes) & ~S::first((Stride - 1 - at) / Stride);
        }
    }
    template <int Columns>
    NPCONV_INLINE void load(const T* row, typename S::Vector (&pixels)[Columns]) const {
        all.load(row, pixels);
        NPCONV_UNROLL
        for (int c = 0; c < Columns; ++c) pixels[c] = S::masked(pixels[c], mask[c]);
    }
};

/// Calls body(pixels_at), where pixels_at(column) is one of them for rows of `width` pixels; `wanted` are the lanes of
/// which not all pixels are 0.
template <class T, int Bytes, int Stride, class Body>
inline void with_pixels(index_t width, bool whole, typename Simd<T, Bytes>::IntVector wanted, Body&& body) {
    if (whole) {
        body([](index_t at) { return PixelsAsTheyLie<T, Bytes, Stride>{at}; });
    } else {
        body([=](index_t at) { return PixelsMasked<T, Bytes, Stride>(at, width, wanted); });
    }
}

/// The columns of the results whose vectors, from there on, meet pixels within [0, width) alone.
struct WholeColumns {
    index_t begin, end;
    bool contain(index_t j) const { return begin <= j && j < end; }
};

inline WholeColumns whole_columns(index_t runs, const index_t* column, index_t width, index_t stride, index_t lanes) {
    index_t leftmost = 0, rightmost = 0;
    for (index_t k = 0; k < runs; ++k) {
        leftmost = column[k] < leftmost ? column[k] : leftmost;
        rightmost = column[k] > rightmost ? column[k] : rightmost;
    }
    const index_t last = width - 1 - rightmost - (lanes - 1) * stride;
    return {(-leftmost + stride - 1) / stride, last < 0 ? 0 : last / stride + 1};
}

/// Rows [first, rows): in blocks of R, what is left of them in blocks of half as many, and so on. A block, and the last
/// vector of a row, may overlap the one before: the same sums again are cheaper than parts of them. A pixel is loaded
/// once for all the taps of a run, which meet it on behalf of one row after the other. There are runs for each of
/// `Phases` sets of results, which alternate along the rows of y.
template <class T, int Bytes, int Stride, int Phases, int Run, int R>
void weighted_rows_from(index_t first, WholeColumns whole, const index_t (&runs)[Phases], const T* const* row,
                        const index_t* column, index_t width, const T* weight, T bias, bool relu, index_t rows,
                        index_t n, T* y, index_t ld_y) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes, read = (R - 1) * Stride + Run;
    constexpr index_t line = 64 / sizeof(T);            // of the cache
    const index_t results = (n + Phases - 1) / Phases;  // of a phase, along a row
    for (; rows - first >= R || (rows - first > R / 2 && rows >= R); first += R) {
        if (rows - first < R) first = rows - R;
        const T* from[read];
        NPCONV_UNROLL
        for (int r = 0; r < read; ++r) from[r] = row[first * Stride + r];
        for (index_t next = 0; next < results; next += lanes) {
            const index_t j = results - next < lanes && results >= lanes ? results - lanes : next;
            Vector sum[Phases][R];
            NPCONV_UNROLL
            for (int q = 0; q < Phases; ++q) {
                NPCONV_UNROLL
                for (int r = 0; r < R; ++r) sum[q][r] = S::broadcast(bias);
            }
            // Long rows are as many streams as the block has rows, more than a CPU fetches ahead by itself.
            if (results > 2 * line && j % line == 0 && first + 2 * R <= rows) {
                NPCONV_UNROLL
                for (int r = read; r < read + R * Stride; ++r) __builtin_prefetch(row[first * Stride + r] + j * Stride);
            }
            // The taps of one column, or of two side by side, whose pixels `source` loads into `pixels`.
            const auto meet = [&](const T* w0, const auto& source, auto& pixels, Vector(&to)[R]) {
                constexpr int columns = sizeof pixels / sizeof(Vector);
                Vector w[columns][Run];
                NPCONV_UNROLL
                for (int c = 0; c < columns; ++c) {
                    NPCONV_UNROLL
                    for (int t = 0; t < Run; ++t) w[c][t] = S::broadcast(w0[c * Run + t]);
                }
                NPCONV_UNROLL
                for (int p = 0; p < read; ++p) {
                    source.load(from[p], pixels);
                    NPCONV_UNROLL
                    for (int c = 0; c < columns; ++c) {
                        NPCONV_UNROLL
                        for (int t = p % Stride; t < Run; t += Stride) {
                            if (p - t >= 0 && p - t < R * Stride) to[(p - t) / Stride] += w[c][t] * pixels[c];
                        }
                    }
                }
            };
            const auto add = [&](auto pixels_at) {
                index_t k = 0, end = 0;
                NPCONV_UNROLL
                for (int q = 0; q < Phases; ++q) {
                    end += runs[q];
                    if constexpr (Stride == 2) {
                        Vector pixels[2];
                        for (; k + 1 < end && column[k + 1] == column[k] + 1; k += 2) {
                            meet(weight + k * Run, pixels_at(column[k] + j * Stride), pixels, sum[q]);
                        }
                    }
                    Vector pixels[1];
                    for (; k < end; ++k) meet(weight + k * Run, pixels_at(column[k] + j * Stride), pixels, sum[q]);
                }
            };
            with_pixels<T, Bytes, Stride>(width, whole.contain(j), ~typename S::IntVector{}, add);
            T* const to = y + first * ld_y + j * Phases;
            // Rows shorter than a vector are written beyond their ends where the next row follows at once.
            const index_t end = ld_y == n && Phases == 1 ? (R - 1) * ld_y + n : 0;
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) {
                Vector result[Phases];
                NPCONV_UNROLL
                for (int q = 0; q < Phases; ++q) result[q] = relu ? S::relu(sum[q][r]) : sum[q][r];
                if constexpr (Phases == 2) {
                    const Vector even = result[0], odd = result[1];
                    result[0] = S::interleave_lower(even, odd);
                    result[1] = S::interleave_upper(even, odd);
                }
                NPCONV_UNROLL
                for (int q = 0; q < Phases; ++q) {
                    T* const at = to + r * ld_y + q * lanes;
                    const index_t left = n - j * Phases - q * lanes;
                    if (left >= lanes || r * ld_y + lanes <= end) {
                        S::store(at, result[q]);
                    } else if (left > 0) {
                        S::store_part(at, result[q], left);
                    }
                }
            }
        }
    }
    if constexpr (R > 1) {
        weighted_rows_from<T, Bytes, Stride, Phases, Run, R / 2>(first, whole, runs, row, column, width, weight, bias,
                                                                 relu, rows, n, y, ld_y);
    }
}

template <class T, int Bytes, int Stride, int Run, int R>
void weighted_rows(index_t runs, const T* const* row, const index_t* column, index_t width, const T* weight, T bias,
                   bool relu, index_t rows, index_t n, T* y, index_t ld_y) {
    const auto whole = whole_columns(runs, column, width, Stride, Simd<T, Bytes>::lanes);
    weighted_rows_from<T, Bytes, Stride, 1, Run, R>(0, whole, {runs}, row, column, width, weight, bias, relu, rows, n,
                                                    y, ld_y);
}

template <class T, int Bytes, int Run, int R>
void alternating_rows(index_t even_runs, index_t odd_runs, const T* const* row, const index_t* column, index_t width,
                      const T* weight, T bias, bool relu, index_t rows, index_t n, T* y, index_t ld_y) {
    const auto whole = whole_columns(even_runs + odd_runs, column, width, 1, Simd<T, Bytes>::lanes);
    weighted_rows_from<T, Bytes, 1, 2, Run, R>(0, whole, {even_runs, odd_runs}, row, column, width, weight, bias, relu,
                                               rows, n, y, ld_y);
}

/// Adds to the sums of G runs what n columns of R rows at a time give, then of what is left of them one by one.
template <class T, int Bytes, int Stride, int Run, int G, int R>
inline void add_products(WholeColumns whole, const T* const* row, const index_t* column, index_t width, const T* dy,
                         index_t ld_dy, index_t rows, index_t n, typename Simd<T, Bytes>::Vector (&sum)[G][Run]) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int lanes = S::lanes, read = (R - 1) * Stride + Run;
    for (; rows >= R; rows -= R, row += R * Stride, dy += R * ld_dy) {
        for (index_t j = 0; j < n; j += lanes) {
            // What is beyond the end of a row may be an infinity, which times 0 would not be 0.
            const auto inside = S::first(n - j < lanes ? n - j : lanes);
            Vector gradient[R];
            NPCONV_UNROLL
            for (int r = 0; r < R; ++r) gradient[r] = S::masked(S::load(dy + r * ld_dy + j), inside);
            with_pixels<T, Bytes, Stride>(width, n - j >= lanes && whole.contain(j), inside, [&](auto pixels_at) {
                NPCONV_UNROLL
                for (int g = 0; g < G; ++g) {
                    const auto source = pixels_at(column[g] + j * Stride);
                    NPCONV_UNROLL
                    for (int p = 0; p < read; ++p) {
                        Vector pixels[1];
                        source.load(row[p], pixels);
                        NPCONV_UNROLL
                        for (int t = p % Stride; t < Run; t += Stride) {
                            if (p - t >= 0 && p - t < R * Stride) sum[g][t] += gradient[(p - t) / Stride] * pixels[0];
                        }
                    }
                }
            });
        }
    }
    if constexpr (R > 1) {
        add_products<T, Bytes, Stride, Run, G, 1>(whole, row, column, width, dy, ld_dy, rows, n, sum);
    }
}

/// G runs at a time, what is left of them one by one.
template <class T, int Bytes, int Stride, int Run, int G>
void products_of_runs(index_t runs, const T* const* row, const index_t* column, index_t width, const T* dy,
                      index_t ld_dy, index_t rows, index_t n, T* sums) {
    using S = Simd<T, Bytes>;
    constexpr int lanes = S::lanes;
    for (; runs >= G; runs -= G, column += G) {
        typename S::Vector sum[G][Run] = {};
        const auto whole = whole_columns(G, column, width, Stride, lanes);
        add_products<T, Bytes, Stride, Run, G, 4>(whole, row, column, width, dy, ld_dy, rows, n, sum);
        NPCONV_UNROLL
        for (int g = 0; g < G; ++g) {
            NPCONV_UNROLL
            for (int t = 0; t < Run; ++t, sums += lanes) S::store(sums, S::load(sums) + sum[g][t]);
        }
    }
    if constexpr (G > 1) {
        products_of_runs<T, Bytes, Stride, Run, 1>(runs, row, column, width, dy, ld_dy, rows, n, sums);
    }
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
