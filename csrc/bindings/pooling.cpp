// Pooling and its gradients.
#include "../avg_pool.hpp"
#include "../pool.hpp"
#include "arrays.hpp"

namespace npconv {
namespace {

std::pair<py::array, py::object> max_pool2d(const py::array& x, Pair kernel, Pair stride, Pair padding, Pair dilation,
                                            bool ceil_mode, bool return_indices) {
    if (x.ndim() != 4) throw py::type_error("npconv._core: x must have 4 axes");
    const PoolShape s("max_pool2d", x.shape(0), x.shape(1), x.shape(2), x.shape(3), kernel, stride, padding, dilation,
                      ceil_mode);
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        auto y = result<T>({s.n, s.c, s.oh, s.ow});
        T* const py = y.mutable_data();
        py::object indices = py::none();
        index_t* pindices = nullptr;
        if (return_indices) {
            auto array = result<index_t>({s.n, s.c, s.oh, s.ow});
            pindices = array.mutable_data();
            indices = std::move(array);
        }
        {
            py::gil_scoped_release nogil;
            max_pool2d_forward(s, px, py, pindices);
        }
        return std::make_pair(py::array(y), indices);
    });
}

py::array max_pool2d_backward_(const py::array& dy, const py::array& indices, Pair input_size) {
    if (dy.ndim() != 4 || indices.ndim() != 4) throw py::type_error("npconv._core: dy and indices must have 4 axes");
    for (int axis = 0; axis < 4; ++axis) {
        require(dy.shape(axis) == indices.shape(axis), "max_pool2d_backward", "dy and indices differ in shape");
    }
    require_at_least("max_pool2d_backward", "input_shape (height, width)", input_size, 1);
    const index_t planes = dy.shape(0) * dy.shape(1), windows = dy.shape(2) * dy.shape(3);
    checked_product("max_pool2d_backward", "input_shape", {planes, input_size.h, input_size.w});
    return with_type_of(dy, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        auto dx = result<T>({dy.shape(0), dy.shape(1), input_size.h, input_size.w});
        T* const pdx = dx.mutable_data();
        const index_t* const pindices = borrow<index_t>(indices, "indices", 4);
        {
            py::gil_scoped_release nogil;
            max_pool2d_backward(planes, input_size.h * input_size.w, windows, pdy, pindices, pdx);
        }
        return dx;
    });
}

template <bool forward>
py::array max_unpool2d_(const py::array& from, const py::array& indices, Pair output_size) {
    const char* const op = forward ? "max_unpool2d" : "max_unpool2d_backward";
    if (from.ndim() != 4 || indices.ndim() != 4) throw py::type_error("npconv._core: arrays must have 4 axes");
    require_at_least(op, "the output size", output_size, 1);
    const index_t n = indices.shape(0), c = indices.shape(1), h = indices.shape(2), w = indices.shape(3);
    require(c >= 1, op, "x has no channels");
    checked_product(op, "the result", {n, c, output_size.h, output_size.w});
    const Pair size = forward ? Pair{h, w} : output_size;
    require_shape(op, forward ? "x" : "dy", from, {n, c, size.h, size.w},
                  forward ? "indices" : "max_unpool2d's result");
    return with_type_of(from, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pfrom = borrow<T>(from, "x", 4);
        const index_t* const pindices = borrow<index_t>(indices, "indices", 4);
        auto to = forward ? result<T>({n, c, output_size.h, output_size.w}) : result<T>({n, c, h, w});
        T* const pto = to.mutable_data();
        {
            py::gil_scoped_release nogil;
            const auto run = forward ? max_unpool2d_forward<T> : max_unpool2d_backward<T>;
            run(n * c, output_size.h * output_size.w, h * w, pfrom, pindices, pto);
        }
        return to;
    });
}

AverageShape average_shape(const char* op, index_t n, index_t c, Pair size, Pair kernel, Pair stride, Pair padding,
                           bool ceil_mode, bool count_include_pad, double divisor) {
    const PoolShape s(op, n, c, size.h, size.w, kernel, stride, padding, {1, 1}, ceil_mode);
    return {n * c, AverageAxis(s.h, s.oh, kernel.h, stride.h, padding.h, count_include_pad),
            AverageAxis(s.w, s.ow, kernel.w, stride.w, padding.w, count_include_pad), divisor};
}

AverageShape adaptive_shape(const char* op, index_t n, index_t c, Pair size, Pair output_size) {
    require(c >= 1, op, "x has no channels");
    require_at_least(op, "the image size", size, 1);
    require_at_least(op, "output_size", output_size, 1);
    checked_product(op, "the input", {n, c, size.h, size.w});
    checked_product(op, "the result", {n, c, output_size.h, output_size.w});
    return {n * c, AverageAxis(size.h, output_size.h), AverageAxis(size.w, output_size.w)};
}

py::array average(const py::array& x, const AverageShape& s) {
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        auto y = result<T>({x.shape(0), x.shape(1), s.v.out, s.h.out});
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            avg_pool2d_forward(s, px, py);
        }
        return y;
    });
}

py::array average_backward(const char* op, const py::array& dy, const AverageShape& s) {
    require_shape(op, "dy", dy, {dy.shape(0), dy.shape(1), s.v.out, s.h.out}, "the result of the forward pass");
    return with_type_of(dy, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        auto dx = result<T>({dy.shape(0), dy.shape(1), s.v.in, s.h.in});
        T* const pdx = dx.mutable_data();
        {
            py::gil_scoped_release nogil;
            avg_pool2d_backward(s, pdy, pdx);
        }
        return dx;
    });
}

void require_images(const py::array& x) {
    if (x.ndim() != 4) throw py::type_error("npconv._core: images must have 4 axes");
}

py::array avg_pool2d(const py::array& x, Pair kernel, Pair stride, Pair padding, bool ceil_mode, bool count_include_pad,
                     double divisor) {
    require_images(x);
    return average(x, average_shape("avg_pool2d", x.shape(0), x.shape(1), {x.shape(2), x.shape(3)}, kernel, stride,
                                    padding, ceil_mode, count_include_pad, divisor));
}

py::array avg_pool2d_backward_(const py::array& dy, Pair size, Pair kernel, Pair stride, Pair padding, bool ceil_mode,
                               bool count_include_pad, double divisor) {
    require_images(dy);
    const char* const op = "avg_pool2d_backward";
    return average_backward(op, dy,
                            average_shape(op, dy.shape(0), dy.shape(1), size, kernel, stride, padding, ceil_mode,
                                          count_include_pad, divisor));
}

py::array adaptive_avg_pool2d(const py::array& x, Pair output_size) {
    require_images(x);
    return average(
        x, adaptive_shape("adaptive_avg_pool2d", x.shape(0), x.shape(1), {x.shape(2), x.shape(3)}, output_size));
}

py::array adaptive_avg_pool2d_backward(const py::array& dy, Pair size) {
    require_images(dy);
    const char* const op = "adaptive_avg_pool2d_backward";
    return average_backward(op, dy, adaptive_shape(op, dy.shape(0), dy.shape(1), size, {dy.shape(2), dy.shape(3)}));
}

}  // namespace

void bind_pooling(py::module_& m) {
    m.def("max_pool2d", &max_pool2d);
    m.def("max_pool2d_backward", &max_pool2d_backward_);
    m.def("max_unpool2d", &max_unpool2d_<true>);
    m.def("max_unpool2d_backward", &max_unpool2d_<false>);
    m.def("avg_pool2d", &avg_pool2d);
    m.def("avg_pool2d_backward", &avg_pool2d_backward_);
    m.def("adaptive_avg_pool2d", &adaptive_avg_pool2d);
    m.def("adaptive_avg_pool2d_backward", &adaptive_avg_pool2d_backward);
}

}  // namespace npconv
