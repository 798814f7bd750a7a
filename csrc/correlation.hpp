// What the forward pass of a convolution and its data gradient have in common.
#pragma once

#include <algorithm>
#include <functional>

#include "shape.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {

/// A grouped correlation with separable geometry: forward and data gradient are both one of these.
///   out[n, m, v.first + i*v.step, h.first + j*h.step] = bias[m] +
///       sum over channel c, taps s of v, t of h:  in[n, c, i*v.stride + s.offset, j*h.stride + t.offset]
///                                                 * weight[m*weight_m + c*weight_c + s.index*kw + t.index]
/// for each group, m and c counted within it. In the data gradient `in` is dy and `out` is dx.
template <class T>
struct Correlation {
    Axis v, h;
    index_t images, groups;
    index_t in_channels, out_channels;  // of one group
    const T* in;
    const T* weight;
    index_t weight_m, weight_c, weight_group;  // from one output channel, input channel, group to the next
    index_t kw, kernel_taps;                   // of the whole kernel, of which only the taps of v and h are used
    const T* bias;
    T* out;
    index_t out_h, out_w;  // the size of an output plane; v.out x h.out of its pixels are written
    bool loose = false;    // whether the rest of a row may be overwritten, too
    bool relu = false;     // whether the result is ReLU of the sum

    index_t taps() const { return static_cast<index_t>(v.taps.size() * h.taps.size()); }
    index_t reduction() const { return in_channels * taps(); }
    /// Which of the taps, row by row, one is.
    index_t tap_place(const Tap& of_v, const Tap& of_h) const {
        const auto place = [](const Axis& axis, const Tap& tap) {
            index_t i = 0;
            while (axis.taps[static_cast<std::size_t>(i)].index != tap.index) ++i;
            return i;
        };
        return place(v, of_v) * static_cast<index_t>(h.taps.size()) + place(h, of_h);
    }
};

/// The ways to make a correlation: by AMX, the unit for bfloat16, by Winograd's algorithm along both axes or along
/// columns alone, plane by plane, or as a matrix product with vectors along the output channels or along the pixels.
enum class Way { amx, winograd, winograd_1d, planes, channels, gemm };

/// The one that is expected to be the fastest; `form` is the form of Winograd's algorithm that would serve, or null.
template <class T>
Way way_of(const Correlation<T>& correlation, const WinogradForm* form);

/// The correlation, that way.
template <class T>
void correlate(const Correlation<T>& correlation, const WinogradForm* form);

/// The weights of `count` output channels from m on as the micro-kernels read them, [reduction][width], with zeros for
/// count <= j < width.
template <class T>
void pack_weights(const Correlation<T>& c, index_t group, index_t m, index_t count, index_t width, T* packed) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t taps = c.taps();
    const T* from = c.weight + group * c.weight_group + m * c.weight_m;
    if (c.weight_c == taps) {  // forward: the whole reduction lies in its order
        kernel.pack_transposed(from, c.weight_m, count, c.reduction(), packed, width, width);
        return;
    }
    for (index_t channel = 0; channel < c.in_channels; ++channel, from += c.weight_c) {
        if (c.kernel_taps == 1 && c.weight_m == 1) {  // a row of weights as it is
            std::fill(std::copy(from, from + count, packed), packed + width, T(0));
            packed += width;
            continue;
        }
        if (taps == c.kernel_taps) {  // all of them, in their order
            kernel.pack_transposed(from, c.weight_m, count, taps, packed, width, width);
            packed += taps * width;
            continue;
        }
        for (const Tap& v : c.v.taps) {
            for (const Tap& h : c.h.taps) {
                const T* w = from + v.index * c.kw + h.index;
                for (index_t j = 0; j < width; ++j) packed[j] = j < count ? w[j * c.weight_m] : T(0);
                packed += width;
            }
        }
    }
}

/// y = x * weight + bias.
template <class T>
Correlation<T> forward_correlation(const ConvShape& s, const T* x, const T* weight, const T* bias, T* y) {
    const index_t taps = s.kh * s.kw;
    return {forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top),
            forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left),
            s.n,
            s.groups,
            s.cg(),
            s.kg(),
            x,
            weight,
            s.cg() * taps,
            taps,
            s.kg() * s.cg() * taps,
            s.kw,
            taps,
            bias,
            y,
            s.oh,
            s.ow};
}

/// One phase of the data gradient, along both axes.
template <class T>
Correlation<T> backward_correlation(const ConvShape& s, const Axis& v, const Axis& h, const T* dy, const T* weight,
                                    const T* bias, T* dx) {
    const index_t taps = s.kh * s.kw;
    return {v,    h,    s.n,  s.groups, s.kg(), s.cg(), dy, weight, taps, s.cg() * taps, s.kg() * s.cg() * taps,
            s.kw, taps, bias, dx,       s.h,    s.w};
}

/// Packs what a strip of an image's rows has in columns [col, col + width) of `count` channels from `channel` on, as
/// [pixel][nr]: whole vectors, with zeros behind the last channel. One pixel more may be written, or `lanes` of them
/// where the rows do not follow each other.
template <class T>
using PackPixels =
    std::function<void(const Strip& strip, index_t col, index_t width, index_t channel, index_t count, T* packed)>;

/// The way back: takes the results of such a strip.
template <class T>
using StorePixels = std::function<void(const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                                       const T* pixels)>;

/// Turns results over into the planes of a correlation.
template <class T>
void store_pixels(const Correlation<T>& c, const Strip& strip, index_t col, index_t width, index_t channel,
                  index_t count, const T* pixels) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t plane = c.out_h * c.out_w;
    T* to = c.out + (strip.image * c.groups * c.out_channels + channel) * plane +
            (c.v.first + strip.row * c.v.step) * c.out_w + c.h.first + col * c.h.step;
    // Rows of full width follow each other.
    const index_t step = strip.step * c.v.step;
    const bool whole = c.h.step == 1 && step == 1 && width == c.out_w;
    const index_t rows = whole ? strip.rows : 1;  // at a time
    Scratch<T> buffer(c.h.step == 1 ? 0 : width * kernel.nr);
    const Segment row{0, 0, static_cast<int>(width)};
    for (index_t y = 0; y < strip.rows; y += rows, pixels += rows * width * kernel.nr, to += step * c.out_w) {
        if (c.h.step == 1) {
            kernel.pack_transposed(pixels, kernel.nr, rows * width, count, to, plane, rows * width);
            continue;
        }
        kernel.pack_transposed(pixels, kernel.nr, width, count, buffer.data(), width, width);
        kernel.store_columns(buffer.data(), width, count, &row, 1, c.h.step, nullptr, false, false, to, plane);
    }
}

/// The way of a correlation's results, which must outlive it.
template <class T>
StorePixels<T> results_of(const Correlation<T>& c) {
    return [&c](const Strip& strip, index_t col, index_t width, index_t channel, index_t count, const T* pixels) {
        store_pixels(c, strip, col, width, channel, count, pixels);
    };
}

/// sums[c] += the sum of channel c < channels <= nr over `count` pixels that are packed so: their product with ones.
template <class T>
void add_pixels(const T* packed, index_t count, index_t channels, T* sums) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const T one = 1;
    const index_t same = 0;
    const auto tile = channels <= kernel.lanes ? kernel.narrow_row_gemm_tile[1] : kernel.row_gemm_tile[1];
    tile(count, 1, &one, &same, 0, packed, kernel.nr, sums, kernel.nr, true);
}

/// Of images (channels, height, width) that lie in memory.
template <class T>
PackPixels<T> pixels_of(const T* images, index_t channels, index_t height, index_t image_width) {
    return [=](const Strip& strip, index_t col, index_t width, index_t channel, index_t count, T* packed) {
        const TypedKernels<T>& kernel = kernels_of<T>();
        const index_t plane = height * image_width, columns = ceil_div(count, kernel.lanes) * kernel.lanes;
        const T* const image = images + (strip.image * channels + channel) * plane;
        // Rows of full width follow each other in an image as they do in the panel.
        const index_t rows = width == image_width && strip.step == 1 ? strip.rows : 1;
        const index_t whole = ceil_div(width, kernel.lanes) * kernel.lanes;
        for (index_t y = 0; y < strip.rows; y += rows) {
            // Whole vectors are quicker to read: what follows a row is overwritten by the next one.
            const index_t at = (strip.row + y * strip.step) * image_width + col;
            const index_t pixels = strip.step > 1 && at + whole <= plane ? whole : rows * width;
            kernel.pack_transposed(image + at, plane, count, pixels, packed + y * width * kernel.nr, kernel.nr,
                                   columns);
        }
    };
}

}  // namespace npconv
