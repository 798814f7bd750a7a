// 3x3 convolution of stride 1 by Winograd's algorithm: tiles of 2x2 (or 4x4) outputs cost 16 (or 36) multiplications
// for each pair of channels instead of 36 (or 144). kernels/winograd.inc.hpp has the formulas.
#pragma once

#include "conv.hpp"
#include "correlation.hpp"
#include "pool.hpp"

namespace npconv {

/// The size of the output tiles, 2 or 4, with which to compute a convolution and its data gradient; 0 for the matrix
/// product, and for all but 3x3 kernels of stride and dilation 1.
int winograd_tile(const ConvShape& shape, Algorithm algorithm);

/// The same for the weight gradient.
int winograd_weight_tile(const ConvShape& shape, Algorithm algorithm);

/// The correlation, in output tiles of `tile` x `tile` pixels, 2 or 4; `in` stands for the images of that name. If
/// `pooled` is not null, its windows lie side by side, and `tile` rows of pixels hold whole ones.
template <class T>
void winograd_correlate(const Correlation<T>& correlation, int tile, const PackPixels<T>& in,
                        const Pooled<T>* pooled = nullptr);

/// dweight, and dbias if it is not null.
template <class T>
void winograd_backward_weight(const ConvShape& shape, int tile, const PackPixels<T>& dy, const T* x, T* dweight,
                              T* dbias);

}  // namespace npconv
