// The matrix product of a convolution with the vectors along the output channels.
#pragma once

#include "correlation.hpp"
#include "dispatch.hpp"
#include "pool.hpp"
#include "shape.hpp"

namespace npconv {

/// Whether it is the faster way: the output channels leave few lanes of their vectors empty, and the sums are long
/// enough to pay for turning the results over. (1x1 kernels need no packing the other way either.)
template <class T>
bool suits_channels(const Correlation<T>& c) {
    const index_t lanes = kernels_of<T>().lanes;
    return 4 * c.out_channels >= 3 * ceil_div(c.out_channels, lanes) * lanes && c.taps() > 1 && c.reduction() >= 256;
}

/// The correlation; if `pooled` is not null, its windows tile the result.
template <class T>
void correlate_along_channels(const Correlation<T>& correlation, const Pooled<T>* pooled = nullptr);

}  // namespace npconv
