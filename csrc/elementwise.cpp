#include "elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {

template <class T>
void relu_forward(index_t n, const T* x, T* y) {
    parallel_for_range(n, element_ns, [&](index_t begin, index_t end) {
        kernels_of<T>().relu_forward(x + begin, y + begin, end - begin);
    });
}

template <class T>
void relu_backward(index_t n, const T* dy, const T* y, T* dx) {
    parallel_for_range(n, element_ns, [&](index_t begin, index_t end) {
        kernels_of<T>().relu_backward(dy + begin, y + begin, dx + begin, end - begin);
    });
}

template <class T>
double softmax_cross_entropy(const Targets<T>& t, const T* x, double epsilon, T* y) {
    constexpr double exponential_ns = 5;
    Scratch<double> losses(t.rows);
    parallel_for_range(t.rows, static_cast<double>(t.classes) * exponential_ns, [&](index_t begin, index_t end) {
        for (index_t n = begin; n < end; ++n) {
            const T* const scores = x + n * t.classes;
            T* const p = y + n * t.classes;
            const T largest = *std::max_element(scores, scores + t.classes);  // against overflow
            double total = 0;
            for (index_t c = 0; c < t.classes; ++c) total += p[c] = std::exp(scores[c] - largest);
            for (index_t c = 0; c < t.classes; ++c) p[c] = static_cast<T>(p[c] / total);
            // Without epsilon it is taken before anything can become zero.
            const auto log_of = [&](index_t c) {
                return epsilon > 0 ? std::log(p[c] + epsilon) : scores[c] - largest - std::log(total);
            };
            losses[n] = 0;
            if (t.labels) losses[n] = -log_of(t.labels[n]);
            for (index_t c = 0; t.weights && c < t.classes; ++c) losses[n] -= t.weights[n * t.classes + c] * log_of(c);
        }
    });
    return std::accumulate(losses.data(), losses.data() + t.rows, 0.0) / static_cast<double>(t.rows);
}

template <class T>
void softmax_cross_entropy_backward(const Targets<T>& t, const T* y, double scale, T* dx) {
    const T factor = static_cast<T>(scale / static_cast<double>(t.rows));
    parallel_for_range(t.rows, static_cast<double>(t.classes) * element_ns, [&](index_t begin, index_t end) {
        for (index_t n = begin; n < end; ++n) {
            T sum = 1;  // of the target: 1, unless it is no distribution
            if (t.weights) sum = std::accumulate(t.weights + n * t.classes, t.weights + (n + 1) * t.classes, T(0));
            for (index_t i = n * t.classes; i < (n + 1) * t.classes; ++i) {
                dx[i] = factor * (t.weights ? sum * y[i] - t.weights[i] : y[i]);
            }
            if (t.labels) {
                const index_t i = n * t.classes + t.labels[n];
                dx[i] = factor * (y[i] - 1);
            }
        }
    });
}

template <class T>
void update(Rule rule, index_t n, T* w, const T* g, T* a, T* b, const double* numbers) {
    const int index = static_cast<int>(rule);
    parallel_for_range(n, (1 + rule_sizes[index].kept) * element_ns, [&](index_t begin, index_t end) {
        kernels_of<T>().update[index](w + begin, g + begin, a ? a + begin : nullptr, b ? b + begin : nullptr, numbers,
                                      end - begin);
    });
}

template void relu_forward(index_t, const float*, float*);
template void relu_forward(index_t, const double*, double*);
template void relu_backward(index_t, const float*, const float*, float*);
template void relu_backward(index_t, const double*, const double*, double*);
template double softmax_cross_entropy(const Targets<float>&, const float*, double, float*);
template double softmax_cross_entropy(const Targets<double>&, const double*, double, double*);
template void softmax_cross_entropy_backward(const Targets<float>&, const float*, double, float*);
template void softmax_cross_entropy_backward(const Targets<double>&, const double*, double, double*);
template void update(Rule, index_t, float*, const float*, float*, float*, const double*);
template void update(Rule, index_t, double*, const double*, double*, double*, const double*);

}  // namespace npconv
