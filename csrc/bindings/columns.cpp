// Images as columns of windows, and back.
#include "../im2col.hpp"
#include "arrays.hpp"

namespace npconv {
namespace {

py::array im2col_(const py::array& x, Pair kernel, Pair stride, Padding pad) {
    if (x.ndim() != 4) throw py::type_error("npconv._core: x must have 4 axes");
    const ConvShape s("im2col", x.shape(0), x.shape(1), x.shape(2), x.shape(3), 1, x.shape(1), kernel.h, kernel.w,
                      stride, pad, {1, 1}, 1);
    const index_t rows = checked_product("im2col", "the result", {s.n, s.oh, s.ow});
    const index_t columns = checked_product("im2col", "the result", {s.c, s.kh, s.kw});
    checked_product("im2col", "the result", {rows, columns});
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        auto col = result<T>({rows, columns});
        T* const pcol = col.mutable_data();
        {
            py::gil_scoped_release nogil;
            im2col(s, px, pcol);
        }
        return col;
    });
}

py::array col2im_(const py::array& col, std::array<index_t, 4> input_shape, Pair kernel, Pair stride, Padding pad) {
    const ConvShape s("col2im", input_shape[0], input_shape[1], input_shape[2], input_shape[3], 1, input_shape[1],
                      kernel.h, kernel.w, stride, pad, {1, 1}, 1);
    const index_t rows = checked_product("col2im", "col", {s.n, s.oh, s.ow});
    const index_t columns = checked_product("col2im", "col", {s.c, s.kh, s.kw});
    require(col.ndim() == 2 && col.shape(0) == rows && col.shape(1) == columns, "col2im", "col must have shape (", rows,
            ", ", columns, ") for this input_shape and filter; it has ", text_of(col.attr("shape")));
    return with_type_of(col, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pcol = borrow<T>(col, "col", 2);
        auto x = result<T>({s.n, s.c, s.h, s.w});
        T* const px = x.mutable_data();
        {
            py::gil_scoped_release nogil;
            col2im(s, pcol, px);
        }
        return x;
    });
}

ConvShape window_shape(const char* op, const std::array<index_t, 4>& x, Pair kernel, Pair stride, Padding pad,
                       Pair dilation) {
    const ConvShape s(op, x[0], x[1], x[2], x[3], 1, x[1], kernel.h, kernel.w, stride, pad, dilation, 1);
    checked_product(op, "the columns", {s.n, s.c, s.kh, s.kw, s.oh, s.ow});
    return s;
}

py::array unfold_(const py::array& x, Pair kernel, Pair stride, Padding pad, Pair dilation) {
    if (x.ndim() != 4) throw py::type_error("npconv._core: x must have 4 axes");
    const ConvShape s =
        window_shape("unfold", {x.shape(0), x.shape(1), x.shape(2), x.shape(3)}, kernel, stride, pad, dilation);
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        auto columns = result<T>({s.n, s.c * s.kh * s.kw, s.oh * s.ow});
        T* const pcolumns = columns.mutable_data();
        {
            py::gil_scoped_release nogil;
            unfold(s, px, pcolumns);
        }
        return columns;
    });
}

py::array fold_(const py::array& columns, Pair output_size, Pair kernel, Pair stride, Padding pad, Pair dilation) {
    if (columns.ndim() != 3) throw py::type_error("npconv._core: columns must have 3 axes");
    require_at_least("fold", "kernel_size", kernel, 1);
    const index_t window = kernel.h * kernel.w;
    require(columns.shape(1) > 0 && columns.shape(1) % window == 0, "fold", "x has ", columns.shape(1),
            " rows, which must be a multiple of the ", window, " pixels of kernel_size ", kernel);
    const ConvShape s =
        window_shape("fold", {columns.shape(0), columns.shape(1) / window, output_size.h, output_size.w}, kernel,
                     stride, pad, dilation);
    require(columns.shape(2) == s.oh * s.ow, "fold", "x has ", columns.shape(2), " columns, but a window has ",
            s.oh * s.ow, " places ", Pair{s.oh, s.ow}, " in output_size ", output_size);
    return with_type_of(columns, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pcolumns = borrow<T>(columns, "x", 3);
        auto x = result<T>({s.n, s.c, s.h, s.w});
        T* const px = x.mutable_data();
        {
            py::gil_scoped_release nogil;
            fold(s, pcolumns, px);
        }
        return x;
    });
}

}  // namespace

void bind_columns(py::module_& m) {
    m.def("im2col", &im2col_);
    m.def("col2im", &col2im_);
    m.def("unfold", &unfold_);
    m.def("fold", &fold_);
}

}  // namespace npconv
