// Convolution of many images from few channels to few, with images as the lanes of a vector.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "shape.hpp"

namespace npconv {

/// How many images, from the first on, to convolve this way, where any way may be taken and Winograd's is not;
/// measured: 1.2 to 5 times as fast. Sums are short enough to be made in one go, filters few (more of them fill a
/// vector themselves), a group of images stays in the L2 cache, and images fill most of the lanes.
template <class T>
index_t images_by_batch(const ConvShape& s, Algorithm algorithm, const WinogradForm* form) {
    const index_t taps = s.kh * s.kw, reduction = s.cg() * taps;
    const index_t plane = (s.h + s.pad.top + s.pad.bottom) * (s.w + s.pad.left + s.pad.right);
    const bool suits = algorithm == Algorithm::automatic && !form && s.groups == 1 && s.stride.w == 1 && taps > 1 &&
                       reduction <= 256 && (reduction >= 16 || s.k <= 8) && s.k > 4 && s.k <= 24 &&
                       std::max(s.c, std::min<index_t>(s.k, max_tile_rows)) * plane <= 1 << 14;
    const index_t at_a_time = kernels_of<T>().nr, rest = s.n % at_a_time;
    return !suits ? 0 : 4 * rest >= 3 * at_a_time ? s.n : s.n - rest;
}

/// The same convolution of so many images.
inline ConvShape with_images(ConvShape s, index_t images) {
    s.n = images;
    return s;
}

/// y, or ReLU of it; or, if `pool` is not null, max pooling of ReLU of it, and `taps` unless they are null. Its
/// windows must lie inside.
template <class T>
void conv2d_forward_by_batch(const ConvShape& shape, const T* x, const T* weight, const T* bias, bool relu,
                             const PoolShape* pool, T* y, TapWord* taps);

/// dx. If `pool` is not null, dy and `taps` are of its result.
template <class T>
void conv2d_backward_data_by_batch(const ConvShape& shape, const T* dy, const PoolShape* pool, const TapWord* taps,
                                   const T* weight, T* dx);

/// dweight and dbias; either may be null. `pool` as above.
template <class T>
void conv2d_backward_weight_by_batch(const ConvShape& shape, const T* dy, const PoolShape* pool, const TapWord* taps,
                                     const T* x, T* dweight, T* dbias);

}  // namespace npconv
