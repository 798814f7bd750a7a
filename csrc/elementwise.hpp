// What stands between and behind the convolutions of a network, shared among threads: ReLU, the loss, and the updates
// of the optimizers.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// y = 0 where x <= 0, else x.
template <class T>
void relu_forward(index_t n, const T* x, T* y);

/// dx = 0 where y <= 0, else dy.
template <class T>
void relu_backward(index_t n, const T* dy, const T* y, T* dx);

/// What each of some rows should be: its label, or numbers to weigh the classes with, which add up to 1.
template <class T>
struct Targets {
    index_t rows, classes;
    const index_t* labels;  ///< or null
    const T* weights;       ///< or null
};

/// y = softmax of each row of x. Returns the cross entropy, the mean over the rows of -log(y + epsilon) at the target.
template <class T>
double softmax_cross_entropy(const Targets<T>& t, const T* x, double epsilon, T* y);

/// dx = scale * (y - t) / rows.
template <class T>
void softmax_cross_entropy_backward(const Targets<T>& t, const T* y, double scale, T* dx);

/// One step of an optimizer, see TypedKernels::update; `a` and `b` are null where the rule keeps fewer arrays.
template <class T>
void update(Rule rule, index_t n, T* w, const T* g, T* a, T* b, const double* numbers);

}  // namespace npconv
