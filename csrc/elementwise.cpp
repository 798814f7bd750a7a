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
template void update(Rule, index_t, float*, const float*, float*, float*, const double*);
template void update(Rule, index_t, double*, const double*, double*, double*, const double*);

}  // namespace npconv
