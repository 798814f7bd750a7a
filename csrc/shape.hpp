// Shapes: the only place where an output size is computed, arguments are held against each other and overflow is
// checked. Whatever passes here is safe for the kernels, which check nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/kernels.hpp"

namespace npconv {

/// One value for the vertical and one for the horizontal axis.
struct Pair {
    index_t h, w;
};

struct Padding {
    index_t top, bottom, left, right;
};

/// Sizes stay below this, so that sums and products of two of them cannot overflow.
constexpr index_t max_extent = index_t(1) << 31;

inline std::string text(std::string value) { return value; }
inline std::string text(index_t value) { return std::to_string(value); }
inline std::string text(Pair value) { return "(" + text(value.h) + ", " + text(value.w) + ")"; }

template <class... Parts>
[[noreturn]] void refuse(const char* op, const Parts&... parts) {
    throw std::invalid_argument((std::string(op) + ": " + ... + text(parts)));
}

/// The parts of the message are put together only if it is needed: every call passes a dozen of these.
template <class... Parts>
void require(bool condition, const char* op, const Parts&... parts) {
    if (!condition) refuse(op, parts...);
}

/// The product of sizes, which must stay within the address space as an array of 8-byte elements; so must, as NumPy
/// wants it, the product of the others where one is 0.
inline index_t checked_product(const char* op, const char* what, std::initializer_list<index_t> sizes) {
    constexpr index_t limit = std::numeric_limits<index_t>::max() / 16;
    index_t product = 1;
    bool empty = false;
    for (const index_t size : sizes) {
        empty = empty || size == 0;
        if (size == 0) continue;
        if (product > limit / size) refuse(op, what, " would have more than 2**59 elements");
        product *= size;
    }
    return empty ? 0 : product;
}

inline void require_at_least(const char* op, const char* name, Pair value, index_t least) {
    require(value.h >= least && value.w >= least && value.h < max_extent && value.w < max_extent, op, name, " is ",
            value, ", each value must be at least ", least, " and below 2**31");
}

/// How many windows fit: floor((size + pad - dilation*(kernel - 1) - 1) / stride) + 1, or the ceiling of it.
/// With `ceil_mode` the last window must still start inside the input or the padding in front of it.
inline index_t output_size(index_t size, index_t kernel, index_t stride, index_t pad_before, index_t pad_after,
                           index_t dilation, bool ceil_mode = false) {
    // The pixels beyond the first window; with ceil_mode, as if there were enough for one more step, but for one pixel.
    const index_t free = size + pad_before + pad_after - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
    if (free < 0) return 0;
    const index_t windows = free / stride + 1;
    return ceil_mode && (windows - 1) * stride >= size + pad_before ? windows - 1 : windows;
}

inline void require_output(const char* op, Pair input, Pair kernel, Pair dilation, const Padding& pad, Pair output) {
    require(output.h >= 1 && output.w >= 1, op, "the window spans ",
            Pair{dilation.h * (kernel.h - 1) + 1, dilation.w * (kernel.w - 1) + 1}, ", more than the padded input ",
            Pair{input.h + pad.top + pad.bottom, input.w + pad.left + pad.right},
            "; use a smaller kernel or dilation, or more padding");
}

/// A two-dimensional convolution: x (n, c, h, w), weight (k, c/groups, kh, kw), y (n, k, oh, ow).
struct ConvShape {
    index_t n, c, h, w;
    index_t k, kh, kw;
    Pair stride, dilation;
    Padding pad;
    index_t groups;
    index_t oh, ow;

    index_t cg() const { return c / groups; }  ///< input channels of a group
    index_t kg() const { return k / groups; }  ///< output channels of a group

    ConvShape(const char* op, index_t n_, index_t c_, index_t h_, index_t w_, index_t k_, index_t weight_c, index_t kh_,
              index_t kw_, Pair stride_, Padding pad_, Pair dilation_, index_t groups_)
        : n(n_),
          c(c_),
          h(h_),
          w(w_),
          k(k_),
          kh(kh_),
          kw(kw_),
          stride(stride_),
          dilation(dilation_),
          pad(pad_),
          groups(groups_) {
        require(c >= 1, op, "x has no channels");
        require(h >= 1 && w >= 1, op, "x has an empty image of ", Pair{h, w}, " pixels");
        require(k >= 1 && weight_c >= 1, op, "weight has no channels");
        require_at_least(op, "the image size", {h, w}, 1);
        require_at_least(op, "the kernel size", {kh, kw}, 1);
        require_at_least(op, "stride", stride, 1);
        require_at_least(op, "dilation", dilation, 1);
        require_at_least(op, "padding (top, left)", {pad.top, pad.left}, 0);
        require_at_least(op, "padding (bottom, right)", {pad.bottom, pad.right}, 0);
        require(groups >= 1, op, "groups is ", groups, ", it must be at least 1");
        require(c % groups == 0, op, "x has ", c, " channels, which groups=", groups, " does not divide");
        require(weight_c == c / groups, op, "weight has ", weight_c, " input channels per group, x has ", c,
                " channels with groups=", groups);
        require(k % groups == 0, op, "weight has ", k, " output channels, which groups=", groups, " does not divide");
        oh = output_size(h, kh, stride.h, pad.top, pad.bottom, dilation.h);
        ow = output_size(w, kw, stride.w, pad.left, pad.right, dilation.w);
        require_output(op, {h, w}, {kh, kw}, dilation, pad, {oh, ow});
        checked_product(op, "the padded input", {n, c, h + pad.top + pad.bottom, w + pad.left + pad.right});
        checked_product(op, "the output", {n, k, oh, ow});
    }
};

/// The convolution whose data gradient is a transposed convolution of x (n, k, oh, ow) with weight (k, c/groups, kh,
/// kw): its input is the result, (n, c, h, w) with h = (oh - 1)*stride - padding + dilation*(kh - 1) + output_padding
/// + 1.
inline ConvShape transposed_shape(const char* op, index_t n, index_t x_c, index_t x_h, index_t x_w, index_t weight_k,
                                  index_t weight_c, index_t kh, index_t kw, Pair stride, Padding pad,
                                  Pair output_padding, Pair dilation, index_t groups) {
    require(x_c >= 1, op, "x has no channels");
    require(weight_k == x_c, op, "weight has ", weight_k, " input channels, x has ", x_c, " channels");
    require(weight_c >= 1, op, "weight has no output channels");
    require_at_least(op, "the image size", {x_h, x_w}, 1);
    require_at_least(op, "the kernel size", {kh, kw}, 1);
    require_at_least(op, "stride", stride, 1);
    require_at_least(op, "dilation", dilation, 1);
    require_at_least(op, "output_padding", output_padding, 0);
    require_at_least(op, "padding (top, left)", {pad.top, pad.left}, 0);
    require_at_least(op, "padding (bottom, right)", {pad.bottom, pad.right}, 0);
    require(groups >= 1, op, "groups is ", groups, ", it must be at least 1");
    require(x_c % groups == 0, op, "x has ", x_c, " channels, which groups=", groups, " does not divide");
    require(output_padding.h < std::max(stride.h, dilation.h) && output_padding.w < std::max(stride.w, dilation.w), op,
            "output_padding is ", output_padding, ", it must be smaller than stride ", stride, " or dilation ",
            dilation);
    const Pair size = {(x_h - 1) * stride.h + dilation.h * (kh - 1) + 1 + output_padding.h - pad.top - pad.bottom,
                       (x_w - 1) * stride.w + dilation.w * (kw - 1) + 1 + output_padding.w - pad.left - pad.right};
    require(size.h >= 1 && size.w >= 1, op, "the result would have ", size, " pixels; use less padding");
    require(size.h < max_extent && size.w < max_extent, op, "the result would have ", size,
            " pixels; each must be below 2**31");
    checked_product(op, "weight", {weight_c, groups});
    ConvShape s(op, n, weight_c * groups, size.h, size.w, x_c, weight_c, kh, kw, stride, pad, dilation, groups);
    s.oh = x_h, s.ow = x_w;  // fewer than fit where output_padding is a stride or more
    return s;
}

/// Pooling windows: x (n, c, h, w), y (n, c, oh, ow).
struct PoolShape {
    index_t n, c, h, w;
    Pair kernel, stride, pad, dilation;
    index_t oh, ow;

    PoolShape(const char* op, index_t n_, index_t c_, index_t h_, index_t w_, Pair kernel_, Pair stride_, Pair pad_,
              Pair dilation_, bool ceil_mode)
        : n(n_), c(c_), h(h_), w(w_), kernel(kernel_), stride(stride_), pad(pad_), dilation(dilation_) {
        require(c >= 1, op, "x has no channels");
        require(h >= 1 && w >= 1, op, "x has an empty image of ", Pair{h, w}, " pixels");
        require_at_least(op, "the image size", {h, w}, 1);
        require_at_least(op, "kernel_size", kernel, 1);
        require_at_least(op, "stride", stride, 1);
        require_at_least(op, "padding", pad, 0);
        require_at_least(op, "dilation", dilation, 1);
        const Pair half = {kernel.h / 2, kernel.w / 2};
        require(pad.h <= half.h && pad.w <= half.w, op, "padding is ", pad, ", more than half of kernel_size: at most ",
                half);
        oh = output_size(h, kernel.h, stride.h, pad.h, pad.h, dilation.h, ceil_mode);
        ow = output_size(w, kernel.w, stride.w, pad.w, pad.w, dilation.w, ceil_mode);
        require_output(op, {h, w}, kernel, dilation, {pad.h, pad.h, pad.w, pad.w}, {oh, ow});
        checked_product(op, "the padded input", {n, c, h + 2 * pad.h, w + 2 * pad.w});
        require(checked_product(op, "the window", {kernel.h, kernel.w}) < max_extent &&
                    checked_product(op, "the window", {dilation.h * kernel.h, w}) < max_extent,
                op, "kernel_size is ", kernel, ", a window must span fewer than 2**31 pixels");
    }
};

}  // namespace npconv
