// Average pooling, forward and backward, with windows of one size or, adaptive, of several.
#pragma once

#include <vector>

#include "shape.hpp"

namespace npconv {

/// The windows of an average pooling along one axis.
struct AverageAxis {
    index_t in, out;
    index_t kernel = 0, stride = 0, pad = 0;  // of windows of one size; `kernel` is 0 where they are of several
    std::vector<index_t> begin, end;          // the pixels of the image that each window covers
    std::vector<index_t> count;               // what each window counts: with padding, perhaps, but none by ceil_mode
    bool even = true;                         // whether all count the same

    /// Windows of one size.
    AverageAxis(index_t in_, index_t out_, index_t kernel_, index_t stride_, index_t pad_, bool count_pad);
    /// Windows from floor(i*in/out) to ceil((i + 1)*in/out).
    AverageAxis(index_t in_, index_t out_);
};

/// The windows of a pooling of `planes` images. With a `divisor` that is not 0, sums are divided by it, whatever the
/// windows count.
struct AverageShape {
    index_t planes;
    AverageAxis v, h;
    double divisor = 0;
};

template <class T>
void avg_pool2d_forward(const AverageShape& shape, const T* x, T* y);

template <class T>
void avg_pool2d_backward(const AverageShape& shape, const T* dy, T* dx);

}  // namespace npconv
