// The matrix product of a convolution whose left operand are its windows, by a unit that multiplies tiles of bfloat16.
#pragma once

#include <vector>

#include "correlation.hpp"
#include "dispatch.hpp"
#include "shape.hpp"

namespace npconv {

/// Whether there is such a unit, and it is the faster way: the taps of a row meet pixels side by side, which nearly
/// fill whole steps, and so do the windows of rows nearly fill tiles. (First layers, of three channels, do not.)
template <class T>
bool suits_windows(const Correlation<T>& c) {
    if (sizeof(T) != sizeof(float) || !bfloat16x3_kernels() || c.taps() <= 1 || c.out_channels < 32) return false;
    for (std::size_t t = 1; t < c.h.taps.size(); ++t) {
        const index_t apart = c.h.taps[t].offset - c.h.taps[t - 1].offset;
        if (apart != 1 && apart != -1) return false;
    }
    const auto nearly_fills = [](index_t n, index_t unit) { return 4 * n >= 3 * ceil_div(n, unit) * unit; };
    const auto row_taps = static_cast<index_t>(c.h.taps.size());
    const bool across_rows = c.v.stride == 1 && c.h.stride == 1 && 4 * c.h.out >= 3 * (c.h.out + row_taps - 1);
    return nearly_fills(row_taps * c.in_channels, 32) && (across_rows || nearly_fills(c.h.out, 16));
}

/// The correlation. Returns the images that have to be made anew (FailedImages).
std::vector<index_t> correlate_windows(const Correlation<float>& correlation);

}  // namespace npconv
