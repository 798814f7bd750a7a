// Convolution with three rows of taps by Winograd's algorithm along columns: 6 multiplications for each tap of a row
// instead of 12, for four results. Along both axes (winograd.hpp) it would be 3, but so planes stay as they are:
// nothing is turned over, and sums stay in registers until they are results. So few channels are enough for it.
// kernels/winograd_1d.inc.hpp has the formulas.
#pragma once

#include "correlation.hpp"

namespace npconv {

/// The correlation, which has three taps, one below the other, at stride 1.
template <class T>
void winograd_1d_correlate(const Correlation<T>& correlation);

}  // namespace npconv
