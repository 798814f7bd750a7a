// The weight gradient of convolution.
#pragma once

#include "conv.hpp"
#include "correlation.hpp"
#include "workspace.hpp"

namespace npconv {

/// dweight and dbias as a matrix product, or by Winograd's algorithm, from a dy that is made as it is packed; either
/// may be null.
template <class T>
void conv2d_backward_weight_from(const ConvShape& shape, const PackPixels<T>& dy, const T* x, T* dweight, T* dbias,
                                 Algorithm algorithm);

/// The output pixels, in `blocks` blocks, are cut into so many runs that are summed apart and then added in order: by
/// the shape alone, or the sums would depend on the number of threads. All sums of a run have `size` elements, and
/// `shares` tasks can make them.
index_t partial_sums(const ConvShape& shape, index_t size, index_t shares, index_t blocks);

/// Adds what gradients(dweight, dbias) makes of other images.
template <class T, class Gradients>
void add_gradients(const ConvShape& s, T* dweight, T* dbias, const Gradients& gradients) {
    const index_t size = s.k * s.cg() * s.kh * s.kw;
    Scratch<T> more_dweight(dweight ? size : 0), more_dbias(dbias ? s.k : 0);
    gradients(dweight ? more_dweight.data() : nullptr, dbias ? more_dbias.data() : nullptr);
    for (index_t i = 0; dweight && i < size; ++i) dweight[i] += more_dweight[i];
    for (index_t k = 0; dbias && k < s.k; ++k) dbias[k] += more_dbias[k];
}

}  // namespace npconv
