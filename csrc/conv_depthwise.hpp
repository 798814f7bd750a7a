// Convolution where every group has few channels (depthwise: one): too few rows for the tiles of a matrix product.
#pragma once

#include <functional>
#include <vector>

#include "conv.hpp"
#include "correlation.hpp"

namespace npconv {

constexpr index_t most_channels = 3;  // of a group

template <class T>
bool suits_planes(const Correlation<T>& c) {
    return c.groups > 1 && c.out_channels <= most_channels && c.in_channels <= most_channels;
}

/// Correlations of the same input, whose results lie between each other in the same output: the phases of a data
/// gradient. They are made block by block, so that a block of the output is written while it is in the cache.
template <class T>
void correlate_planes(const std::vector<Correlation<T>>& phases);

inline bool suits_planes(const ConvShape& s) {
    return s.groups > 1 && s.kg() <= most_channels && s.cg() <= most_channels;
}

/// The gradient (oh, ow) of one channel of one image: where it lies, or made in `buffer`.
template <class T>
using PlaneOfDy = std::function<const T*(index_t image, index_t channel, T* buffer)>;

/// dweight and dbias (k); either may be null.
template <class T>
void conv2d_backward_weight_by_planes(const ConvShape& shape, const PlaneOfDy<T>& dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
