// Convolution with kernels of a single pixel, by a unit that multiplies tiles of bfloat16.
#pragma once

#include <vector>

#include "conv.hpp"
#include "correlation.hpp"
#include "dispatch.hpp"
#include "shape.hpp"

namespace npconv {

/// Whether there is such a unit, one tap, and enough to multiply for the pixels to be worth splitting.
template <class T>
bool suits_1x1(const Correlation<T>& c) {
    return sizeof(T) == sizeof(float) && bfloat16x3_kernels() && c.taps() == 1 && c.in_channels >= 32 &&
           c.out_channels >= 32 && c.v.out * c.h.out >= 32;
}

/// The correlation. Returns the images in which something was no number, be it an infinity on the way: their results
/// are of no use.
std::vector<index_t> correlate_1x1(const Correlation<float>& correlation);

/// The same of the weight gradient of a convolution that goes pixel by pixel, its images in one row each.
template <class T>
bool weight_suits_1x1(const ConvShape& s) {
    return sizeof(T) == sizeof(float) && bfloat16x3_kernels() && pixel_by_pixel(s) &&
           s.cg() * s.kg() >= 48 * (s.cg() + s.kg()) && s.h * s.w >= 32;
}

/// dweight, and dbias if it is not null. Returns false if something was no number: then the results are of no use.
bool backward_weight_1x1(const ConvShape& shape, const PackPixels<float>& dy, const float* x, float* dweight,
                         float* dbias);

}  // namespace npconv
