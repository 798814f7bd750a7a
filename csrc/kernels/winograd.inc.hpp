// The transforms of Winograd's minimal filtering for 3x3 kernels (Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks", 2016): M x M outputs from (M + 2) x (M + 2) inputs,
//     y = A^T [ (G w G^T) * (B^T x B) ] A,      * element by element,
// and its gradients, in which the same three matrices come back transposed.
//
// The matrices follow from M + 1 points at which polynomials are evaluated and one at infinity. For M = 4 most
// programs take 0, +-1 and +-2; 0, +-sqrt(1/2) and +-sqrt(2) round three to five times less.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

template <class T, int M>
struct WinogradMatrices;

template <class T>
struct WinogradMatrices<T, 2> {
    static constexpr T bt[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
    static constexpr T g[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    static constexpr T a[4][2] = {{1, 0}, {1, 1}, {1, -1}, {0, 1}};
};

template <class T>
struct WinogradMatrices<T, 4> {
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

/// Sum of row[j] * x[j] for j = first, first + step, ...; the zeros of a constant row cost nothing.
template <class T, class Vector, int K>
inline Vector sparse_dot(const T (&row)[K], const Vector* x, int first, int step) {
    Vector sum = {};
    bool empty = true;
    NPCONV_UNROLL
    for (int j = first; j < K; j += step) {
        if (row[j] == 0) continue;
        sum = empty ? row[j] * x[j] : sum + row[j] * x[j];
        empty = false;
    }
    return sum;
}

/// y = L x. The rows of L between the first and the last come in pairs, for the points p and -p: they differ in the
/// sign of the odd powers, so that both are made of the same two sums.
template <class T, class Vector, int N, int K>
inline void expand(const T (&l)[N][K], const Vector* x, Vector* y) {
    y[0] = sparse_dot(l[0], x, 0, 1);
    NPCONV_UNROLL
    for (int i = 1; i + 1 < N; i += 2) {
        const Vector even = sparse_dot(l[i], x, 0, 2), odd = sparse_dot(l[i], x, 1, 2);
        y[i] = even + odd;
        y[i + 1] = even - odd;
    }
    y[N - 1] = sparse_dot(l[N - 1], x, 0, 1);
}

/// y = L^T x, with the same saving.
template <class T, class Vector, int N, int K>
inline void contract(const T (&l)[N][K], const Vector* x, Vector* y) {
    Vector sum[N], difference[N];
    NPCONV_UNROLL
    for (int i = 1; i + 1 < N; i += 2) {
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
        for (int i = 1; i + 1 < N; i += 2) add(l[i][k], k % 2 == 0 ? sum[i] : difference[i]);
        add(l[0][k], x[0]);
        add(l[N - 1][k], x[N - 1]);
    }
}

/// L X L^T (`Expand`) or L^T X L, L being N x K, of as many matrices as there are columns; `Add`: to what is there;
/// `Relu`: ReLU of that.
template <class T, int Bytes, int N, int K, const T (&L)[N][K], bool Expand, bool Add = false, bool Relu = false>
void winograd_transform(const T* src, const index_t* from, index_t columns, T* dst, const index_t* to, const T* bias) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int in = Expand ? K : N, out = Expand ? N : K;
    const auto apply = [](const Vector* x, Vector* y) {
        if constexpr (Expand) {
            expand(L, x, y);
        } else {
            contract(L, x, y);
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

template <class T, int Bytes, int M>
constexpr WinogradTransforms<T> winograd_transforms() {
    using W = WinogradMatrices<T, M>;
    constexpr int n = M + 2;
    return {
        winograd_transform<T, Bytes, n, n, W::bt, true>, winograd_transform<T, Bytes, n, 3, W::g, true>,
        winograd_transform<T, Bytes, n, M, W::a, false>, winograd_transform<T, Bytes, n, M, W::a, false, false, true>,
        winograd_transform<T, Bytes, n, M, W::a, true>,  winograd_transform<T, Bytes, n, n, W::bt, false, true>,
        winograd_transform<T, Bytes, n, 3, W::g, false>};
}

}  // namespace
}  // namespace npconv
