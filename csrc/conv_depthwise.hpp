// Depthwise convolution, one filter for each channel, of small planes: the lanes of a vector are channels.
#pragma once

#include <vector>

#include "conv.hpp"
#include "correlation.hpp"

namespace npconv {

/// It serves where rows are too short for whole vectors of pixels.
template <class T>
bool suits_depthwise(const ConvShape& shape, Pass pass);

/// Correlations of the same input, whose results lie between each other in the same output: the phases of a data
/// gradient. Results that belong to none are the bias.
template <class T>
void correlate_depthwise(const std::vector<Correlation<T>>& phases);

/// dweight and dbias (k); either may be null.
template <class T>
void conv2d_backward_weight_depthwise(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias);

}  // namespace npconv
