// The matrix product of a convolution with the vectors along the output channels.
#pragma once

#include "correlation.hpp"
#include "dispatch.hpp"
#include "pool.hpp"
#include "shape.hpp"

namespace npconv {

/// The steps of a reduction have so many rows of weights at most: a panel of them stays in the L1 cache.
constexpr index_t channels_reduction_block = 256;

/// Whether it is the faster way: the output channels leave few lanes of their vectors empty, and turning the results
/// over costs less than packing the pixels would. Those are as many as the sums have terms, but pieces of long rows are
/// read where they are. (1x1 kernels need no packing the other way either.)
template <class T>
bool suits_channels(const Correlation<T>& c) {
    const index_t lanes = kernels_of<T>().lanes;
    const bool short_rows = c.h.out < 64;
    return 4 * c.out_channels >= 3 * ceil_div(c.out_channels, lanes) * lanes && c.taps() > 1 &&
           (c.reduction() >= 256 || (short_rows && 2 * c.reduction() >= 3 * c.out_channels));
}

/// The correlation; if `pooled` is not null, its windows tile the result.
template <class T>
void correlate_along_channels(const Correlation<T>& correlation, const Pooled<T>* pooled = nullptr);

}  // namespace npconv
