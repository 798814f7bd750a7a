// A strided convolution as one of stride 1, which Winograd's algorithm serves, for the few channels of first layers.
//
// With a stride of s, output i meets tap s*u + r at input s*(i + u) + r - pad. Every s-th pixel, from the r-th on, is
// an image of its own, a phase: there output i meets pixel i + u with tap u. So a convolution of 11x11 with stride 4
// and three channels is one of 3x3 with stride 1 and 48 channels, whose weights are 0 where 12 taps are more than 11.
#pragma once

#include "conv.hpp"
#include "correlation.hpp"
#include "winograd.hpp"

namespace npconv {

/// The form of Winograd's algorithm for the phases, which a unit for bfloat16 may make faster where channels are many;
/// null if another way is expected to be faster.
template <class T>
const WinogradForm* phases_form(const ConvShape& shape, Algorithm algorithm) {
    const WinogradForm* const form =
        winograd_form(shape, algorithm) ? nullptr : winograd_form_of_phases(shape, algorithm);
    if (!form || shape.cg() < 8) return form;
    const Correlation<T> correlation = forward_correlation<T>(shape, nullptr, nullptr, nullptr, nullptr);
    return way_of(correlation, nullptr) == Way::amx ? nullptr : form;
}

/// The same for their data gradient.
inline const WinogradForm* phases_data_form(const ConvShape& shape, Algorithm algorithm) {
    return winograd_form(shape, algorithm) ? nullptr : winograd_data_form_of_phases(shape, algorithm);
}

/// y = x * weight + bias, or ReLU of that.
template <class T>
void conv2d_forward_by_phases(const ConvShape& shape, const WinogradForm& form, const T* x, const T* weight,
                              const T* bias, bool relu, T* y);

/// dx, and bias added to it unless null.
template <class T>
void conv2d_backward_data_by_phases(const ConvShape& shape, const WinogradForm& form, const T* dy, const T* weight,
                                    const T* bias, T* dx);

/// dweight, and dbias if it is not null.
template <class T>
void conv2d_backward_weight_by_phases(const ConvShape& shape, const WinogradForm& form, const PackPixels<T>& dy,
                                      const T* x, T* dweight, T* dbias);

}  // namespace npconv
