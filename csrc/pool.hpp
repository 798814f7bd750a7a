// Max pooling and unpooling, forward and backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dispatch.hpp"
#include "shape.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {

/// y (n, c, oh, ow) and, unless `indices` is null, where in its h*w plane each maximum lies. A window that holds no
/// pixel at all (dilation can place every tap in the padding) gives minus infinity and index -1.
template <class T>
void max_pool2d_forward(const PoolShape& shape, const T* x, T* y, index_t* indices);

/// Where the taps of a window lie, from its first one on, in memory with `row` elements from row to row and `column`
/// from pixel to pixel.
inline std::vector<index_t> window_offsets(const PoolShape& s, index_t row, index_t column) {
    std::vector<index_t> offsets;
    for (index_t r = 0; r < s.kernel.h; ++r) {
        for (index_t t = 0; t < s.kernel.w; ++t) {
            offsets.push_back(r * s.dilation.h * row + t * s.dilation.w * column);
        }
    }
    return offsets;
}

/// The words of a row of windows; each row begins with a word of its own.
inline index_t words_of(index_t windows) { return ceil_div(windows, windows_per_word); }

/// From a tap back to its pixel in a plane.
class TapPixels {
   public:
    explicit TapPixels(const PoolShape& s) : shape_(s), offsets_(no_tap + 1, outside) {
        const std::vector<index_t> offsets = window_offsets(s, s.w, 1);
        std::copy(offsets.begin(), offsets.end(), offsets_.begin());
    }
    const PoolShape& shape() const { return shape_; }

    /// Calls body(window, pixel) for a row of windows, whose words are `step` apart; pixel is far below 0 where ReLU
    /// cut the maximum.
    template <class Body>
    void for_row(index_t row, const TapWord* words, index_t step, Body&& body) const {
        index_t start = (row * shape_.stride.h - shape_.pad.h) * shape_.w - shape_.pad.w;
        for (index_t w = 0; w < shape_.ow; ++w, start += shape_.stride.w) {
            const TapWord word = words[w / windows_per_word * step];
            body(w, start + offsets_[std::size_t(word >> (8 * (w % windows_per_word)) & no_tap)]);
        }
    }

   private:
    static constexpr index_t outside = -(index_t(1) << 60);  // of any plane
    PoolShape shape_;
    std::vector<index_t> offsets_;
};

/// pack_transposed of words, which are moved as floats of the same bits.
inline void transpose_words(const TapWord* src, index_t ld_src, index_t rows, index_t columns, TapWord* dst,
                            index_t ld_dst, index_t width) {
    kernels_of<float>().pack_transposed(reinterpret_cast<const float*>(src), ld_src, rows, columns,
                                        reinterpret_cast<float*>(dst), ld_dst, width);
}

/// Whether no window reaches beyond the image.
bool windows_inside(const PoolShape& shape);

/// Whether the windows lie side by side, each pixel in one of them at most.
inline bool windows_apart(const PoolShape& s) {
    return s.stride.h == s.kernel.h && s.stride.w == s.kernel.w && s.dilation.h == 1 && s.dilation.w == 1 &&
           s.pad.h == 0 && s.pad.w == 0 && s.oh * s.stride.h <= s.h && s.ow * s.stride.w <= s.w;
}

/// Whether they leave no pixel over, either.
inline bool tiles_input(const PoolShape& s) {
    return windows_apart(s) && s.oh * s.stride.h == s.h && s.ow * s.stride.w == s.w;
}

/// Where max pooling of ReLU of the result goes, instead of the result.
template <class T>
struct Pooled {
    PoolShape shape;
    T* y;
    TapWord* taps;  ///< may be null
};

/// Takes the maximum of each window over the finished sums of a strip, and turns it over into the planes of its image.
template <class T>
void store_pooled(const Pooled<T>& pooled, const Strip& strip, index_t channel, index_t count, const T* sums) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const PoolShape& s = pooled.shape;
    const index_t nr = kernel.nr, rows = strip.rows / s.kernel.h, words = words_of(s.ow);
    Scratch<T> maxima(rows * s.ow * nr);
    Scratch<TapWord> taps(pooled.taps ? rows * words * nr : 0);
    const std::vector<index_t> offsets = window_offsets(s, s.w * nr, nr);
    for (index_t row = 0; row < rows; ++row) {
        kernel.relu_pool_pixels(s.ow, s.kernel.w * nr, static_cast<int>(offsets.size()),
                                sums + row * s.kernel.h * s.w * nr, offsets.data(), maxima.data() + row * s.ow * nr,
                                pooled.taps ? taps.data() + row * words * nr : nullptr);
    }
    const index_t plane = strip.image * s.c + channel, first = strip.row / s.kernel.h;
    kernel.pack_transposed(maxima.data(), nr, rows * s.ow, count, pooled.y + (plane * s.oh + first) * s.ow, s.oh * s.ow,
                           rows * s.ow);
    if (!pooled.taps) return;
    transpose_words(taps.data(), nr, rows * words, count, pooled.taps + (plane * s.oh + first) * words, s.oh * words,
                    rows * words);
}

/// The way back through windows that lie side by side: `rows` rows of pixels from `first` on, each with the gradient of
/// its window if that is where the window's tap lies, else 0. `dy` and `taps` begin with the row of windows over the
/// first. All are [pixel][nr].
template <class T>
void unpool_rows(const PoolShape& s, index_t first, index_t rows, const T* dy, const TapWord* taps, T* to) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t nr = kernel.nr, covered = s.ow * s.kernel.w * nr, width = s.w * nr, words = words_of(s.ow) * nr;
    for (index_t y = first; y < first + rows; ++y, to += width) {
        const index_t window_row = y / s.kernel.h - first / s.kernel.h;
        const bool inside = y / s.kernel.h < s.oh;
        if (inside) {
            kernel.unpool_pixels(s.ow, s.kernel.w, dy + window_row * s.ow * nr, taps + window_row * words,
                                 static_cast<int>(y % s.kernel.h * s.kernel.w), to);
        }
        std::fill(to + (inside ? covered : 0), to + width, T(0));
    }
}

/// Max pooling of ReLU, and the taps unless they are null: windows inside the image, at most 2 apart, of images whose
/// rows are `pitch` elements apart; four vectors behind them must be readable.
template <class T>
void relu_max_pool2d_forward(const PoolShape& shape, const T* x, index_t pitch, T* y, TapWord* taps);

/// The same from what max_pool2d_forward made: cuts y, and turns its indices into taps, unless those are null.
template <class T>
void cut_maxima(const PoolShape& shape, T* y, const index_t* indices, TapWord* taps);

/// The way back, of `planes` planes.
template <class T>
void relu_max_pool2d_backward(const TapPixels& pixels, index_t planes, const T* dy, const TapWord* taps, T* dx);

/// dx (planes of `plane_size` pixels): each dy is added where its index says. Throws std::invalid_argument if an index
/// lies outside its plane.
template <class T>
void max_pool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                         T* dx);

/// y (planes of `plane_size` pixels): zeros, but each x where its index says, the last one of several. Throws
/// std::invalid_argument if an index lies outside its plane.
template <class T>
void max_unpool2d_forward(index_t planes, index_t plane_size, index_t windows, const T* x, const index_t* indices,
                          T* y);

/// dx: what lies in dy where each index says.
template <class T>
void max_unpool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                           T* dx);

}  // namespace npconv
