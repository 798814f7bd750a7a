// Convolution from few channels to few (depthwise: one to one in every group): too few rows for the tiles of a matrix
// product.
#pragma once

#include <functional>
#include <vector>

#include "conv.hpp"
#include "correlation.hpp"

namespace npconv {

/// From how many channels to how many planes are faster; measured: 1.2 to 2 times, depthwise 3 to 10.
template <class T>
bool suits_planes(const Correlation<T>& c) {
    return c.in_channels <= 4 && c.out_channels <= 4 && c.in_channels * c.out_channels <= 12;
}

/// Correlations of the same input, whose results lie between each other in the same output: the phases of a data
/// gradient. They are made block by block, so that a block of the output is written while it is in the cache.
template <class T>
void correlate_planes(const std::vector<Correlation<T>>& phases);

constexpr index_t most_filters = 10;  // of a group

/// The same for the weight gradient: 1.4 to 3 times.
inline bool weight_suits_planes(const ConvShape& s) { return s.cg() <= 4 && s.kg() <= most_filters; }

/// The gradient (oh, ow) of one channel of one image: where it lies, or made in `buffer`. A vector behind it must
/// be readable, as it is in the buffer.
template <class T>
using PlaneOfDy = std::function<const T*(index_t image, index_t channel, T* buffer)>;

/// dweight and dbias (k); either may be null.
template <class T>
void conv2d_backward_weight_by_planes(const ConvShape& shape, const PlaneOfDy<T>& dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
