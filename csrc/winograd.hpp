// Convolution with small kernels by Winograd's algorithm: with 3x3 and stride 1, for example, tiles of 2x2 (or 4x4)
// outputs cost 16 (or 36) multiplications for each pair of channels instead of 36 (or 144). kernels/winograd.inc.hpp
// has the formulas.
#pragma once

#include "conv.hpp"
#include "correlation.hpp"

namespace npconv {

constexpr index_t many_weights = 1 << 20;  ///< transformed: more than stay in the L2 cache

/// How many tiles an axis of `length` results takes, of each of its phases: with a dilation of d, of every d-th result.
inline index_t tiles_of_phase(index_t length, index_t dilation, index_t tile) {
    return ceil_div(ceil_div(length, dilation), tile);
}

/// The form of Winograd's algorithm for a convolution; null for the matrix product. "winograd2" and "winograd4" ask for
/// a form for 3x3 kernels of stride 1.
const WinogradForm* winograd_form(const ConvShape& shape, Algorithm algorithm);

/// The same for the data gradient of a convolution of stride 1.
const WinogradForm* winograd_data_form(const ConvShape& shape, Algorithm algorithm);

/// The same for one phase of the data gradient of a strided convolution.
const WinogradForm* winograd_form(const ConvShape& shape, const Axis& v, const Axis& h, Algorithm algorithm);

/// The same for the weight gradient.
const WinogradForm* winograd_weight_form(const ConvShape& shape, Algorithm algorithm);

/// The same for the convolution of the phases of a strided one (conv_phases.hpp), and for its gradients.
const WinogradForm* winograd_form_of_phases(const ConvShape& shape, Algorithm algorithm);
const WinogradForm* winograd_data_form_of_phases(const ConvShape& shape, Algorithm algorithm);
const WinogradForm* winograd_weight_form_of_phases(const ConvShape& shape, Algorithm algorithm);

/// The correlation; `in` and `out` stand for the images of these names. If `window_rows` is not 0, `out` is given whole
/// rows, so many (and so many more) together.
template <class T>
void winograd_correlate(const Correlation<T>& correlation, const WinogradForm& form, const PackPixels<T>& in,
                        const StorePixels<T>& out, index_t window_rows = 0);

/// dweight, and dbias if it is not null.
template <class T>
void winograd_backward_weight(const ConvShape& shape, const WinogradForm& form, const PackPixels<T>& dy,
                              const PackPixels<T>& images, T* dweight, T* dbias);

}  // namespace npconv
