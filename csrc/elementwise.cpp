#include "elementwise.hpp"

#include "dispatch.hpp"
#include "parallel.hpp"

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
void adam_update(index_t n, T* w, const T* g, T* m, T* v, T beta1, T beta2, T rate, T epsilon) {
    parallel_for_range(n, 2 * element_ns, [&](index_t begin, index_t end) {
        kernels_of<T>().adam_update(w + begin, g + begin, m + begin, v + begin, beta1, beta2, rate, epsilon,
                                    end - begin);
    });
}

template void relu_forward(index_t, const float*, float*);
template void relu_forward(index_t, const double*, double*);
template void relu_backward(index_t, const float*, const float*, float*);
template void relu_backward(index_t, const double*, const double*, double*);
template void adam_update(index_t, float*, const float*, float*, float*, float, float, float, float);
template void adam_update(index_t, double*, const double*, double*, double*, double, double, double, double);

}  // namespace npconv
