// The transforms of Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016): M x M outputs of a kernel of R x R taps, from (M + R - 1) x (M + R - 1) inputs,
//     y = A^T [ (G w G^T) * (B^T x B) ] A,      * element by element,
// and its gradients, in which the same three matrices come back transposed.
//
// Along one axis, M values and R taps are polynomials, and the N = M + R - 1 coefficients of their product follow from
// its values at N points, one of them infinity: A and G evaluate the two, B interpolates (Toom and Cook). Winograd's
// algorithm is the transpose of that.
#pragma once

#include "simd.hpp"

namespace npconv {
namespace {

/// The points: p and -p for each of these, infinity, and 0 where N is even. They decide about rounding: for N = 6 most
/// programs take 1 and 2, which round three to five times more.
template <int N>
constexpr const double* points = nullptr;  // none were chosen
template <>
constexpr double points<4>[] = {1};
template <>
constexpr double points<5>[] = {0.5, 1.25};
template <>
constexpr double points<6>[] = {0.70710678118654752440, 1.41421356237309504880};  // square roots of 1/2 and of 2
template <>
constexpr double points<7>[] = {0.3125, 0.875, 1.5};

template <class T, int Rows, int Columns>
struct Matrix {
    T at[Rows][Columns];
};

/// Of N points: each has a row. That of 0 (or of infinity, where N is odd) comes first, then pairs of rows for p and
/// -p, that of infinity (where N is even) last.
template <class T, int N>
struct PointMatrices {
    static constexpr int pairs = (N - 1) / 2, infinity = N % 2 ? 0 : N - 1;

    static constexpr double point(int row) {
        return row == 0 || row > 2 * pairs ? 0 : row % 2 ? points<N>[(row - 1) / 2] : -points<N>[(row - 1) / 2];
    }

    /// The coefficients of the polynomial that is 0 at every finite point but the row's own.
    static constexpr Matrix<T, N, N> interpolation() {
        Matrix<T, N, N> m{};
        for (int row = 0; row < N; ++row) {
            double c[N] = {1};
            const auto times = [&c](int power, double constant) {  // by x^power + constant
                for (int k = N - 1; k >= 0; --k) c[k] = (k < power ? 0 : c[k - power]) + constant * c[k];
            };
            for (const double p : points<N>) {
                if (p * p != point(row) * point(row)) times(2, -p * p);
            }
            if (point(row) != 0) times(1, point(row));
            if (N % 2 == 0 && row > 0) times(1, 0);
            for (int k = 0; k < N; ++k) m.at[row][k] = static_cast<T>(c[k]);
        }
        return m;
    }

    /// The powers of each point, over that polynomial's value there if `Divided`.
    template <int Count, bool Divided>
    static constexpr Matrix<T, N, Count> evaluation() {
        Matrix<T, N, Count> m{};
        m.at[infinity][Count - 1] = 1;
        for (int row = 0; row < N; ++row) {
            if (row == infinity) continue;
            const double x = point(row);
            double power = 1;
            for (const double p : points<N>) {
                if (Divided && p * p != x * x) power /= x * x - p * p;
            }
            if (Divided && x != 0) power /= N % 2 ? 2 * x : 2 * x * x;
            for (int k = 0; k < Count; ++k, power *= x) m.at[row][k] = static_cast<T>(power);
        }
        return m;
    }
};

template <class T, int Kernel, int Stride, int Tile>
struct WinogradMatrices {
    using Points = PointMatrices<T, Tile + Kernel - 1>;
    static constexpr int pairs = Points::pairs;
    static constexpr auto bt = Points::interpolation();
    static constexpr auto g = Points::template evaluation<Kernel, true>();
    static constexpr auto a = Points::template evaluation<Tile, false>();
};

// A convolution of stride 2 is the sum of two of stride 1, of the even pixels with the even taps and of the odd ones
// with the odd taps, at the points 1, -1 and infinity, and 0 for three taps: each has rows of its own in the matrices.

template <class T>
struct WinogradMatrices<T, 3, 2, 2> {
    static constexpr int pairs = 1;
    static constexpr Matrix<T, 5, 5> bt = {
        {{-1, 0, 0, 0, 1}, {1, 0, 1, 0, 0}, {1, 0, -1, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 0}}};
    static constexpr Matrix<T, 5, 3> g = {{{0, 0, 1}, {0.5, 0, 0.5}, {0.5, 0, -0.5}, {0, 1, 0}, {0, 1, 0}}};
    static constexpr Matrix<T, 5, 2> a = {{{0, 1}, {1, 1}, {1, -1}, {1, 0}, {0, 1}}};
};

template <class T>
struct WinogradMatrices<T, 4, 2, 2> {
    static constexpr int pairs = 2;
    static constexpr Matrix<T, 6, 6> bt = {{{-1, 0, 0, 0, 1, 0},
                                            {1, 0, 1, 0, 0, 0},
                                            {1, 0, -1, 0, 0, 0},
                                            {0, 1, 0, 1, 0, 0},
                                            {0, 1, 0, -1, 0, 0},
                                            {0, -1, 0, 0, 0, 1}}};
    static constexpr Matrix<T, 6, 4> g = {
        {{0, 0, 1, 0}, {0.5, 0, 0.5, 0}, {0.5, 0, -0.5, 0}, {0, 0.5, 0, 0.5}, {0, 0.5, 0, -0.5}, {0, 0, 0, 1}}};
    static constexpr Matrix<T, 6, 2> a = {{{0, 1}, {1, 1}, {1, -1}, {1, 1}, {1, -1}, {0, 1}}};
};

template <class T>
struct WinogradMatrices<T, 5, 2, 2> {
    static constexpr int pairs = 2;
    static constexpr Matrix<T, 7, 7> bt = {{{1, 0, 0, 0, -1, 0, 0},
                                            {0, 0, 1, 0, 1, 0, 0},
                                            {0, 0, -1, 0, 1, 0, 0},
                                            {0, 1, 0, 1, 0, 0, 0},
                                            {0, 1, 0, -1, 0, 0, 0},
                                            {0, 0, -1, 0, 0, 0, 1},
                                            {0, -1, 0, 0, 0, 1, 0}}};
    static constexpr Matrix<T, 7, 5> g = {{{1, 0, 0, 0, 0},
                                           {0.5, 0, 0.5, 0, 0.5},
                                           {0.5, 0, -0.5, 0, 0.5},
                                           {0, 0.5, 0, 0.5, 0},
                                           {0, 0.5, 0, -0.5, 0},
                                           {0, 0, 0, 0, 1},
                                           {0, 0, 0, 1, 0}}};
    static constexpr Matrix<T, 7, 2> a = {{{1, 0}, {1, 1}, {1, -1}, {1, 1}, {1, -1}, {0, 1}, {0, 1}}};
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
inline void expand(const Matrix<T, N, K>& matrix, const Vector* x, Vector* y) {
    const auto& l = matrix.at;
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
inline void contract(const Matrix<T, N, K>& matrix, const Vector* x, Vector* y) {
    const auto& l = matrix.at;
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
template <class T, int Bytes, int Pairs, int N, int K, const Matrix<T, N, K>& L, bool Expand, bool Add = false,
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
