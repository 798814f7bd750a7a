// The transforms of Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016): M x M outputs of a kernel of R x R taps, from (M + R - 1) x (M + R - 1) inputs,
//     y = A^T [ (G w G^T) * (B^T x B) ] A,      * element by element,
// and its gradients, in which the same three matrices come back transposed.
//
// The matrices follow from M + R - 2 points at which polynomials are evaluated and one at infinity. For M = 4 and R = 3
// most programs take 0, +-1 and +-2; 0, +-sqrt(1/2) and +-sqrt(2) round three to five times less. For M = 4 and R = 2
// they are +-1/2 and +-5/4. A convolution of stride 2 is the sum of two of stride 1, of the even pixels with the even
// taps and of the odd ones with the odd taps: each has rows of its own in the matrices.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T, int Kernel, int Stride, int Tile>
struct WinogradMatrices;

template <class T>
struct WinogradMatrices<T, 3, 1, 2> {
    static constexpr int pairs = 1;
    static constexpr T bt[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
    static constexpr T g[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    static constexpr T a[4][2] = {{1, 0}, {1, 1}, {1, -1}, {0, 1}};
};

template <class T>
struct WinogradMatrices<T, 3, 1, 4> {
    static constexpr int pairs = 2;
    static constexpr T r = T(0.70710678118654752440), q = T(1.41421356237309504880);  // square roots of 1/2 and of 2
    static constexpr T bt[6][6] = {{1, 0, -2.5, 0, 1, 0},  {0, -q, -2, r, 1, 0},   {0, q, -2, -r, 1, 0},
                                   {0, -r, -0.5, q, 1, 0}, {0, r, -0.5, -q, 1, 0}, {0, 1, 0, -2.5, 0, 1}};
    static constexpr T g[6][3] = {{1, 0, 0},
                                  {-T(2) / 3, -2 * r / 3, -T(1) / 3},
                                  {-T(2) / 3, 2 * r / 3, -T(1) / 3},
                                  {T(1) / 6, q / 6, T(1) / 3},
                                  {T(1) / 6, -q / 6, T(1) / 3},
                                  {0, 0, 1}};
    static constexpr T a[6][4] = {{1, 0, 0, 0},     {1, r, 0.5, r / 2}, {1, -r, 0.5, -r / 2},
                                  {1, q, 2, 2 * q}, {1, -q, 2, -2 * q}, {0, 0, 0, 1}};
};

template <class T>
struct WinogradMatrices<T, 2, 1, 4> {
    static constexpr int pairs = 2;
    static constexpr T bt[5][5] = {{0.390625, 0, -1.8125, 0, 1},
                                   {-0.78125, -1.5625, 0.5, 1, 0},
                                   {-0.78125, 1.5625, 0.5, -1, 0},
                                   {-0.3125, -0.25, 1.25, 1, 0},
                                   {-0.3125, 0.25, 1.25, -1, 0}};
    static constexpr T g[5][2] = {{0, 1},
                                  {T(-16) / 21, T(-8) / 21},
                                  {T(-16) / 21, T(8) / 21},
                                  {T(32) / 105, T(8) / 21},
                                  {T(32) / 105, T(-8) / 21}};
    static constexpr T a[5][4] = {{0, 0, 0, 1},
                                  {1, 0.5, 0.25, 0.125},
                                  {1, -0.5, 0.25, -0.125},
                                  {1, 1.25, 1.5625, 1.953125},
                                  {1, -1.25, 1.5625, -1.953125}};
};

template <class T>
struct WinogradMatrices<T, 3, 2, 2> {
    static constexpr int pairs = 1;
    static constexpr T bt[5][5] = {
        {-1, 0, 0, 0, 1}, {1, 0, 1, 0, 0}, {1, 0, -1, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 0}};
    static constexpr T g[5][3] = {{0, 0, 1}, {0.5, 0, 0.5}, {0.5, 0, -0.5}, {0, 1, 0}, {0, 1, 0}};
    static constexpr T a[5][2] = {{0, 1}, {1, 1}, {1, -1}, {1, 0}, {0, 1}};
};

template <class T>
struct WinogradMatrices<T, 4, 2, 2> {
    static constexpr int pairs = 2;
    static constexpr T bt[6][6] = {{-1, 0, 0, 0, 1, 0}, {1, 0, 1, 0, 0, 0},  {1, 0, -1, 0, 0, 0},
                                   {0, 1, 0, 1, 0, 0},  {0, 1, 0, -1, 0, 0}, {0, -1, 0, 0, 0, 1}};
    static constexpr T g[6][4] = {{0, 0, 1, 0},     {0.5, 0, 0.5, 0},  {0.5, 0, -0.5, 0},
                                  {0, 0.5, 0, 0.5}, {0, 0.5, 0, -0.5}, {0, 0, 0, 1}};
    static constexpr T a[6][2] = {{0, 1}, {1, 1}, {1, -1}, {1, 1}, {1, -1}, {0, 1}};
};

template <class T>
struct WinogradMatrices<T, 5, 1, 2> : WinogradMatrices<T, 3, 1, 4> {  // at the same points
    using WinogradMatrices<T, 3, 1, 4>::r;
    using WinogradMatrices<T, 3, 1, 4>::q;
    static constexpr T g[6][5] = {{1, 0, 0, 0, 0},
                                  {-T(2) / 3, -2 * r / 3, -T(1) / 3, -r / 3, -T(1) / 6},
                                  {-T(2) / 3, 2 * r / 3, -T(1) / 3, r / 3, -T(1) / 6},
                                  {T(1) / 6, q / 6, T(1) / 3, q / 3, T(2) / 3},
                                  {T(1) / 6, -q / 6, T(1) / 3, -q / 3, T(2) / 3},
                                  {0, 0, 0, 0, 1}};
    static constexpr T a[6][2] = {{1, 0}, {1, r}, {1, -r}, {1, q}, {1, -q}, {0, 1}};
};

template <class T>
struct WinogradMatrices<T, 5, 2, 2> {
    static constexpr int pairs = 2;
    static constexpr T bt[7][7] = {{1, 0, 0, 0, -1, 0, 0}, {0, 0, 1, 0, 1, 0, 0},  {0, 0, -1, 0, 1, 0, 0},
                                   {0, 1, 0, 1, 0, 0, 0},  {0, 1, 0, -1, 0, 0, 0}, {0, 0, -1, 0, 0, 0, 1},
                                   {0, -1, 0, 0, 0, 1, 0}};
    static constexpr T g[7][5] = {{1, 0, 0, 0, 0},     {0.5, 0, 0.5, 0, 0.5}, {0.5, 0, -0.5, 0, 0.5},
                                  {0, 0.5, 0, 0.5, 0}, {0, 0.5, 0, -0.5, 0},  {0, 0, 0, 0, 1},
                                  {0, 0, 0, 1, 0}};
    static constexpr T a[7][2] = {{1, 0}, {1, 1}, {1, -1}, {1, 1}, {1, -1}, {0, 1}, {0, 1}};
};

/// Sum of row[j] * x[j], of those j for which next[j] is sign * row[j]; the zeros of a constant row cost nothing.
template <class T, class Vector, int K>
inline Vector sparse_dot(const T (&row)[K], const T (&next)[K], T sign, const Vector* x) {
    Vector sum = {};
    bool empty = true;
    NPCONV_UNROLL
    for (int j = 0; j < K; ++j) {
        if (row[j] == 0 || next[j] != sign * row[j]) continue;
        sum = empty ? row[j] * x[j] : sum + row[j] * x[j];
        empty = false;
    }
    return sum;
}

/// y = L x. Behind the first row of L come pairs of rows, for the points p and -p: they differ in the sign of the odd
/// powers, so that both are made of the same two sums.
template <int Pairs, class T, class Vector, int N, int K>
inline void expand(const T (&l)[N][K], const Vector* x, Vector* y) {
    NPCONV_UNROLL
    for (int i = 0; i < N; ++i) {
        if (i == 0 || i > 2 * Pairs) {
            y[i] = sparse_dot(l[i], l[i], T(1), x);
        } else if (i % 2 == 1) {
            const Vector even = sparse_dot(l[i], l[i + 1], T(1), x), odd = sparse_dot(l[i], l[i + 1], T(-1), x);
            y[i] = even + odd;
            y[i + 1] = even - odd;
        }
    }
}

/// y = L^T x, with the same saving.
template <int Pairs, class T, class Vector, int N, int K>
inline void contract(const T (&l)[N][K], const Vector* x, Vector* y) {
    Vector sum[N], difference[N];
    NPCONV_UNROLL
    for (int i = 1; i < 2 * Pairs; i += 2) {
        sum[i] = x[i] + x[i + 1];
        difference[i] = x[i] - x[i + 1];
    }
    NPCONV_UNROLL
    for (int k = 0; k < K; ++k) {
        y[k] = Vector{};
        bool empty = true;
        const auto add = [&](T factor, const Vector& term) {
            if (factor == 0) return;
            y[k] = empty ? term * factor : y[k] + term * factor;
            empty = false;
        };
        NPCONV_UNROLL
        for (int i = 1; i < 2 * Pairs; i += 2) add(l[i][k], l[i + 1][k] == l[i][k] ? sum[i] : difference[i]);
        add(l[0][k], x[0]);
        NPCONV_UNROLL
        for (int i = 2 * Pairs + 1; i < N; ++i) add(l[i][k], x[i]);
    }
}

/// L X L^T (`Expand`) or L^T X L, L being N x K, of as many matrices as there are columns; `Add`: to what is there;
/// `Relu`: ReLU of that.
template <class T, int Bytes, int Pairs, int N, int K, const T (&L)[N][K], bool Expand, bool Add = false,
          bool Relu = false>
void winograd_transform(const T* src, const index_t* from, index_t columns, T* dst, const index_t* to, const T* bias) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int in = Expand ? K : N, out = Expand ? N : K;
    const auto apply = [](const Vector* x, Vector* y) {
        if constexpr (Expand) {
            expand<Pairs>(L, x, y);
        } else {
            contract<Pairs>(L, x, y);
        }
    };
    for (index_t column = 0; column < columns; column += S::lanes) {
        const Vector base = bias ? S::load(bias + column) : Vector{};
        Vector half[out][in];
        for (int j = 0; j < in; ++j) {
            Vector x[in], y[out];
            NPCONV_UNROLL
            for (int i = 0; i < in; ++i) x[i] = S::load(src + from[i * in + j] + column);
            apply(x, y);
            NPCONV_UNROLL
            for (int i = 0; i < out; ++i) half[i][j] = y[i];
        }
        for (int i = 0; i < out; ++i) {
            Vector y[out];
            apply(half[i], y);
            NPCONV_UNROLL
            for (int j = 0; j < out; ++j) {
                T* const p = dst + to[i * out + j] + column;
                const Vector sum = y[j] + (Add ? S::load(p) : base);
                S::store(p, Relu ? S::relu(sum) : sum);
            }
        }
    }
}

template <class T, int Bytes, int Form>
constexpr WinogradTransforms<T> winograd_transforms() {
    constexpr WinogradForm form = winograd_forms[Form];
    using W = WinogradMatrices<T, form.kernel, form.stride, form.tile>;
    constexpr int n = form.size(), r = form.kernel, m = form.tile, pairs = W::pairs;
    return {winograd_transform<T, Bytes, pairs, n, n, W::bt, true>,
            winograd_transform<T, Bytes, pairs, n, r, W::g, true>,
            winograd_transform<T, Bytes, pairs, n, m, W::a, false>,
            winograd_transform<T, Bytes, pairs, n, m, W::a, false, false, true>,
            winograd_transform<T, Bytes, pairs, n, m, W::a, true>,
            winograd_transform<T, Bytes, pairs, n, n, W::bt, false, true>,
            winograd_transform<T, Bytes, pairs, n, r, W::g, false>};
}

}  // namespace
}  // namespace npconv
