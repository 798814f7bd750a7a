// Padding with the image itself: reflected, repeated at the edge, or as if it went round.
#pragma once

#include "shape.hpp"

namespace npconv {

enum class PaddingMode { reflect, replicate, circular };

/// Throws std::invalid_argument where an image (h, w) is too small for this padding: reflect needs less than the size,
/// circular no more than it, as in PyTorch.
void require_padding(const char* op, Pair size, const Padding& pad, PaddingMode mode);

/// y: planes of (h + pad.top + pad.bottom, w + pad.left + pad.right).
template <class T>
void pad_forward(index_t planes, Pair size, const Padding& pad, PaddingMode mode, const T* x, T* y);

/// dx: every pixel gets the sum of what became of it.
template <class T>
void pad_backward(index_t planes, Pair size, const Padding& pad, PaddingMode mode, const T* dy, T* dx);

}  // namespace npconv
