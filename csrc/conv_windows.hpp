// The matrix product of a convolution whose left operand are its windows, by a unit that multiplies tiles of bfloat16.
#pragma once

#include <cstdlib>
#include <vector>

#include "correlation.hpp"
#include "dispatch.hpp"
#include "shape.hpp"

namespace npconv {

/// Whether there is such a unit, and it is the faster way: every pixel between the taps is met, those of a row of taps
/// nearly fill whole steps (those of first layers, of three channels, do not), and the windows of a row half fill
/// tiles.
template <class T>
bool suits_windows(const Correlation<T>& c) {
    if (sizeof(T) != sizeof(float) || !bfloat16x3_kernels() || c.taps() <= 1 || c.out_channels < 32) return false;
    for (const Axis* axis : {&c.v, &c.h}) {
        const auto taps = static_cast<index_t>(axis->taps.size());
        const bool together = std::abs(axis->taps.back().offset - axis->taps.front().offset) == taps - 1;
        if (!together || axis->stride > taps) return false;
    }
    const auto fills = [](index_t n, index_t unit, double share) {
        return static_cast<double>(n) >= share * static_cast<double>(ceil_div(n, unit) * unit);
    };
    const auto row_taps = static_cast<index_t>(c.h.taps.size());
    const index_t row = c.h.out - 1 + ceil_div(row_taps, c.h.stride);  // tiles may go on in the next one
    return fills(row_taps * c.in_channels, 32, 0.7) && (10 * c.h.out >= 7 * row || fills(c.h.out, 16, 0.5));
}

/// The correlation. Returns the images that have to be made anew (images_to_make_anew).
std::vector<index_t> correlate_windows(const Correlation<float>& correlation);

}  // namespace npconv
