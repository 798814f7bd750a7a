// Convolution, its gradients, and convolution with ReLU and pooling in one.
#include "../conv.hpp"
#include "../pad.hpp"
#include "../pool.hpp"
#include "arrays.hpp"

namespace npconv {
namespace {

ConvShape conv_shape(const char* op, const py::array& x, const py::array& weight, Pair stride, Padding pad,
                     Pair dilation, index_t groups) {
    if (x.ndim() != 4 || weight.ndim() != 4) throw py::type_error("npconv._core: x and weight must have 4 axes");
    return ConvShape(op, x.shape(0), x.shape(1), x.shape(2), x.shape(3), weight.shape(0), weight.shape(1),
                     weight.shape(2), weight.shape(3), stride, pad, dilation, groups);
}

void require_bias(const char* op, const ConvShape& s, const std::optional<py::array>& bias) {
    if (bias) require_row(op, "bias", *bias, s.k, "output channel");
}

py::array conv2d(const py::array& x, const py::array& weight, const std::optional<py::array>& bias, Pair stride,
                 Padding padding, Pair dilation, index_t groups, int algorithm, bool relu) {
    const char* const op = relu ? "conv2d_relu" : "conv2d";
    const ConvShape s = conv_shape(op, x, weight, stride, padding, dilation, groups);
    require_bias(op, s, bias);
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const T* const pb = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto y = result<T>({s.n, s.k, s.oh, s.ow});
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            conv2d_forward(s, px, pw, pb, py, static_cast<Algorithm>(algorithm), relu);
        }
        return y;
    });
}

py::tuple conv2d_backward(const py::array& dy, const py::array& x, const py::array& weight, Pair stride,
                          Padding padding, Pair dilation, index_t groups, Needs needs, int algorithm) {
    const ConvShape s = conv_shape("conv2d_backward", x, weight, stride, padding, dilation, groups);
    require_shape("conv2d_backward", "dy", dy, {s.n, s.k, s.oh, s.ow}, "conv2d's result");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const Wanted<T> dx(needs.dx, {s.n, s.c, s.h, s.w}), dweight(needs.dweight, {s.k, s.cg(), s.kh, s.kw});
        const Wanted<T> dbias(needs.dbias, {s.k});
        {
            py::gil_scoped_release nogil;
            if (dx.data) conv2d_backward_data(s, pdy, pw, dx.data, static_cast<Algorithm>(algorithm));
            conv2d_backward_weight(s, pdy, px, dweight.data, dbias.data, static_cast<Algorithm>(algorithm));
        }
        return py::make_tuple(dx.array, dweight.array, dbias.array);
    });
}

ConvShape transposed_shape(const char* op, const py::array& x, const py::array& weight, Pair stride, Padding pad,
                           Pair output_padding, Pair dilation, index_t groups) {
    if (x.ndim() != 4 || weight.ndim() != 4) throw py::type_error("npconv._core: x and weight must have 4 axes");
    return transposed_shape(op, x.shape(0), x.shape(1), x.shape(2), x.shape(3), weight.shape(0), weight.shape(1),
                            weight.shape(2), weight.shape(3), stride, pad, output_padding, dilation, groups);
}

py::array conv_transpose2d(const py::array& x, const py::array& weight, const std::optional<py::array>& bias,
                           Pair stride, Padding padding, Pair output_padding, Pair dilation, index_t groups) {
    const char* const op = "conv_transpose2d";
    const ConvShape s = transposed_shape(op, x, weight, stride, padding, output_padding, dilation, groups);
    if (bias) require_row(op, "bias", *bias, s.c, "output channel");
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const T* const pb = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto y = result<T>({s.n, s.c, s.h, s.w});
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            conv2d_backward_data(s, px, pw, py, Algorithm::automatic, pb);
        }
        return y;
    });
}

py::tuple conv_transpose2d_backward_(const py::array& dy, const py::array& x, const py::array& weight, Pair stride,
                                     Padding padding, Pair output_padding, Pair dilation, index_t groups, Needs needs) {
    const char* const op = "conv_transpose2d_backward";
    const ConvShape s = transposed_shape(op, x, weight, stride, padding, output_padding, dilation, groups);
    require_shape(op, "dy", dy, {s.n, s.c, s.h, s.w}, "conv_transpose2d's result");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const Wanted<T> dx(needs.dx, {s.n, s.k, s.oh, s.ow}), dweight(needs.dweight, {s.k, s.cg(), s.kh, s.kw});
        const Wanted<T> dbias(needs.dbias, {s.c});
        {
            py::gil_scoped_release nogil;
            conv_transpose2d_backward(s, pdy, px, pw, dx.data, dweight.data, dbias.data);
        }
        return py::make_tuple(dx.array, dweight.array, dbias.array);
    });
}

// ---- padding with the image itself ----

py::array pad_(const char* op, const py::array& x, Padding pad, int mode) {
    if (x.ndim() != 4) throw py::type_error("npconv._core: x must have 4 axes");
    const Pair size = {x.shape(2), x.shape(3)};
    require_at_least(op, "the image size", size, 1);
    require_padding(op, size, pad, static_cast<PaddingMode>(mode));
    const index_t height = size.h + pad.top + pad.bottom, width = size.w + pad.left + pad.right;
    const index_t planes = x.shape(0) * x.shape(1);
    checked_product(op, "the padded input", {planes, height, width});
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        auto y = result<T>({x.shape(0), x.shape(1), height, width});
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            pad_forward(planes, size, pad, static_cast<PaddingMode>(mode), px, py);
        }
        return y;
    });
}

py::array pad_backward_(const char* op, const py::array& dy, Padding pad, int mode) {
    if (dy.ndim() != 4) throw py::type_error("npconv._core: dy must have 4 axes");
    const Pair size = {dy.shape(2) - pad.top - pad.bottom, dy.shape(3) - pad.left - pad.right};
    require_at_least(op, "the image size", size, 1);
    require_padding(op, size, pad, static_cast<PaddingMode>(mode));
    return with_type_of(dy, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        auto dx = result<T>({dy.shape(0), dy.shape(1), size.h, size.w});
        T* const pdx = dx.mutable_data();
        {
            py::gil_scoped_release nogil;
            pad_backward(dy.shape(0) * dy.shape(1), size, pad, static_cast<PaddingMode>(mode), pdy, pdx);
        }
        return dx;
    });
}

index_t conv_output_size(index_t input, index_t filter, index_t stride, index_t pad, index_t dilation) {
    // Along one axis: a convolution of a single row.
    return ConvShape("conv_output_size", 1, 1, 1, input, 1, 1, 1, filter, {1, stride}, {0, 0, pad, pad}, {1, dilation},
                     1)
        .ow;
}

void require_few_taps(const char* op, const PoolShape& p) {
    const index_t taps = p.kernel.h * p.kernel.w;
    require(taps < no_tap, op, "a window of pooling has ", taps,
            " pixels, at most 254 are possible; use conv2d, relu and max_pool2d");
}

py::tuple conv2d_relu_max_pool2d(const py::array& x, const py::array& weight, const std::optional<py::array>& bias,
                                 Pair stride, Padding padding, Pair dilation, index_t groups, Pair kernel,
                                 Pair pool_stride, Pair pool_padding, Pair pool_dilation, bool ceil_mode,
                                 bool return_taps) {
    const char* const op = "conv2d_relu_max_pool2d";
    const ConvShape s = conv_shape(op, x, weight, stride, padding, dilation, groups);
    const PoolShape p(op, s.n, s.k, s.oh, s.ow, kernel, pool_stride, pool_padding, pool_dilation, ceil_mode);
    require_bias(op, s, bias);
    require_few_taps(op, p);
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const T* const pb = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto y = result<T>({p.n, p.c, p.oh, p.ow});
        T* const py = y.mutable_data();
        const Wanted<TapWord> taps(return_taps, {p.n, p.c, p.oh, words_of(p.ow)});
        {
            py::gil_scoped_release nogil;
            conv2d_relu_max_pool2d_forward(s, p, px, pw, pb, py, taps.data);
        }
        return py::tuple(py::make_tuple(y, taps.array));
    });
}

py::tuple conv2d_relu_max_pool2d_backward_(const py::array& dy, const py::array& taps, const py::array& x,
                                           const py::array& weight, Pair stride, Padding padding, Pair dilation,
                                           index_t groups, Pair kernel, Pair pool_stride, Pair pool_padding,
                                           Pair pool_dilation, bool ceil_mode, Needs needs) {
    const char* const op = "conv2d_relu_max_pool2d_backward";
    const ConvShape s = conv_shape(op, x, weight, stride, padding, dilation, groups);
    const PoolShape p(op, s.n, s.k, s.oh, s.ow, kernel, pool_stride, pool_padding, pool_dilation, ceil_mode);
    require_shape(op, "dy", dy, {p.n, p.c, p.oh, p.ow}, "conv2d_relu_max_pool2d's result");
    require_few_taps(op, p);
    require_shape(op, "taps", taps, {p.n, p.c, p.oh, words_of(p.ow)}, "those of conv2d_relu_max_pool2d");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        const TapWord* const pt = borrow<TapWord>(taps, "taps", 4);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const Wanted<T> dx(needs.dx, {s.n, s.c, s.h, s.w}), dweight(needs.dweight, {s.k, s.cg(), s.kh, s.kw});
        const Wanted<T> dbias(needs.dbias, {s.k});
        {
            py::gil_scoped_release nogil;
            conv2d_relu_max_pool2d_backward(s, p, pdy, pt, px, pw, dx.data, dweight.data, dbias.data);
        }
        return py::tuple(py::make_tuple(dx.array, dweight.array, dbias.array));
    });
}

}  // namespace

void bind_convolution(py::module_& m) {
    m.def("conv2d", &conv2d);
    m.def("conv2d_backward", &conv2d_backward);
    m.def("conv_transpose2d", &conv_transpose2d);
    m.def("conv_transpose2d_backward", &conv_transpose2d_backward_);
    m.def("pad", &pad_);
    m.def("pad_backward", &pad_backward_);
    m.def("conv_output_size", &conv_output_size);
    m.def("conv2d_relu_max_pool2d", &conv2d_relu_max_pool2d);
    m.def("conv2d_relu_max_pool2d_backward", &conv2d_relu_max_pool2d_backward_);
}

}  // namespace npconv
