// The only file that knows pybind11. Every function here borrows its arrays, allocates its results, releases the GIL
// and calls an operator. Arguments have been through npconv/functional; what would be unsafe is checked again,
// here (type and layout) and in shape.hpp (sizes).
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "conv.hpp"
#include "dispatch.hpp"
#include "elementwise.hpp"
#include "gemm.hpp"
#include "im2col.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "shape.hpp"
#include "workspace.hpp"

namespace py = pybind11;

namespace npconv {

/// Which gradients are wanted.
struct Needs {
    bool dx, dweight, dbias;
};

}  // namespace npconv

namespace pybind11::detail {

/// A tuple of ints as the members of a struct. (pybind11's own caster for arrays makes two vectors on the way, which
/// shows where an operator takes a microsecond.)
template <class Struct, auto... members>
class FromTuple {
   public:
    PYBIND11_TYPE_CASTER(Struct, const_name("tuple[int, ...]"));

    bool load(handle source, bool) {
        PyObject* const tuple = source.ptr();
        if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != sizeof...(members)) return false;
        Py_ssize_t i = 0;
        ((value.*members = PyLong_AsLongLong(PyTuple_GetItem(tuple, i++))), ...);
        if (!PyErr_Occurred()) return true;
        PyErr_Clear();
        return false;
    }
};

template <>
struct type_caster<npconv::Pair> : FromTuple<npconv::Pair, &npconv::Pair::h, &npconv::Pair::w> {};
template <>
struct type_caster<npconv::Padding> : FromTuple<npconv::Padding, &npconv::Padding::top, &npconv::Padding::bottom,
                                                &npconv::Padding::left, &npconv::Padding::right> {};
template <>
struct type_caster<npconv::Needs>
    : FromTuple<npconv::Needs, &npconv::Needs::dx, &npconv::Needs::dweight, &npconv::Needs::dbias> {};

}  // namespace pybind11::detail

namespace npconv {
namespace {

/// `whose`: what else has this shape.
void require_shape(const char* op, const char* name, const py::array& array, std::initializer_list<index_t> shape,
                   const char* whose) {
    if (std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) return;
    const auto text_of = [](const py::object& sizes) { return py::str(py::tuple(sizes)).cast<std::string>(); };
    refuse(op, name, " has shape ", text_of(array.attr("shape")), "; needed is that of ", whose, ", ",
           text_of(py::cast(std::vector<index_t>(shape))));
}

template <class T>
bool has_type(const py::array& array) {
    return py::isinstance<py::array_t<T>>(array);
}

/// The elements of a C-contiguous array of T; TypeError if it is anything else.
template <class T>
const T* borrow(const py::array& array, const char* name, py::ssize_t ndim) {
    if (!(array.flags() & py::array::c_style) || !has_type<T>(array) || array.ndim() != ndim) {
        throw py::type_error(std::string("npconv._core: ") + name + " must be a C-contiguous, native array with " +
                             std::to_string(ndim) + " axes and the type of the other arrays");
    }
    return static_cast<const T*>(array.data());
}

/// A new array, uninitialised. A large one is made of memory that an earlier result has given up: fresh pages from the
/// system would cost as much time as many of our operators take.
template <class T>
py::array_t<T> new_array(std::vector<py::ssize_t> shape) {
    std::size_t bytes = sizeof(T);
    for (const py::ssize_t size : shape) bytes *= static_cast<std::size_t>(size);
    if (bytes < ResultMemory::least_bytes) return py::array_t<T>(std::move(shape));
    auto block = std::make_unique<MemoryBlock>(ResultMemory::instance().take(bytes));
    const auto* const data = static_cast<const T*>(block->data);
    const py::capsule owner(block.get(), [](void* pointer) {
        const std::unique_ptr<MemoryBlock> mine(static_cast<MemoryBlock*>(pointer));
        ResultMemory::instance().give_back(*mine);
    });
    block.release();
    return py::array_t<T>(std::move(shape), data, owner);
}

template <class T>
py::array_t<T> result(std::initializer_list<index_t> sizes) {
    return new_array<T>(std::vector<py::ssize_t>(sizes));
}

/// Calls f with a float or a double, as the array's elements are.
template <class F>
auto with_type_of(const py::array& array, F&& f) {
    if (has_type<float>(array)) return f(float());
    if (has_type<double>(array)) return f(double());
    throw py::type_error("npconv._core: arrays must be float32 or float64");
}

/// The gate's question, whether there is anything to do: the one dtype of objects that are all plain arrays,
/// C-contiguous and aligned; None if they are not.
py::object ready_dtype(const py::args& objects) {
    constexpr int needed = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    py::object common = py::none();
    for (const py::handle object : objects) {
        if (!Py_IS_TYPE(object.ptr(), py::detail::npy_api::get().PyArray_Type_)) return py::none();
        const auto array = py::reinterpret_borrow<py::array>(object);
        const py::dtype dtype = array.dtype();
        if ((array.flags() & needed) != needed || !(common.is_none() || dtype.is(common))) return py::none();
        common = dtype;
    }
    return common;
}

ConvShape conv_shape(const char* op, const py::array& x, const py::array& weight, Pair stride, Padding pad,
                     Pair dilation, index_t groups) {
    if (x.ndim() != 4 || weight.ndim() != 4) throw py::type_error("npconv._core: x and weight must have 4 axes");
    return ConvShape(op, x.shape(0), x.shape(1), x.shape(2), x.shape(3), weight.shape(0), weight.shape(1),
                     weight.shape(2), weight.shape(3), stride, pad, dilation, groups);
}

void require_bias(const char* op, const ConvShape& s, const std::optional<py::array>& bias) {
    require(!bias || (bias->ndim() == 1 && bias->shape(0) == s.k), op, "bias must have shape (", s.k,
            ",), one value for each output channel");
}

// ---- convolution ----

py::array conv2d(const py::array& x, const py::array& weight, const std::optional<py::array>& bias, Pair stride,
                 Padding padding, Pair dilation, index_t groups, int algorithm) {
    const ConvShape s = conv_shape("conv2d", x, weight, stride, padding, dilation, groups);
    require_bias("conv2d", s, bias);
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const T* const pb = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto y = result<T>({s.n, s.k, s.oh, s.ow});
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            conv2d_forward(s, px, pw, pb, py, static_cast<Algorithm>(algorithm));
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
        py::object dx = py::none(), dweight = py::none(), dbias = py::none();
        T *pdx = nullptr, *pdw = nullptr, *pdb = nullptr;
        const auto make = [](py::object& object, T*& data, py::array_t<T> array) {
            data = array.mutable_data();
            object = std::move(array);
        };
        if (needs.dx) make(dx, pdx, result<T>({s.n, s.c, s.h, s.w}));
        if (needs.dweight) make(dweight, pdw, result<T>({s.k, s.cg(), s.kh, s.kw}));
        if (needs.dbias) make(dbias, pdb, result<T>({s.k}));
        {
            py::gil_scoped_release nogil;
            if (pdx) conv2d_backward_data(s, pdy, pw, pdx, static_cast<Algorithm>(algorithm));
            conv2d_backward_weight(s, pdy, px, pdw, pdb, static_cast<Algorithm>(algorithm));
        }
        return py::make_tuple(dx, dweight, dbias);
    });
}

index_t conv_output_size(index_t input, index_t filter, index_t stride, index_t pad, index_t dilation) {
    // Along one axis: a convolution of a single row.
    return ConvShape("conv_output_size", 1, 1, 1, input, 1, 1, 1, filter, {1, stride}, {0, 0, pad, pad}, {1, dilation},
                     1)
        .ow;
}

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
            ", ", columns, ") for this input_shape and filter");
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

// ---- pooling ----

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
        const auto run = [&](const auto* pindices) {
            py::gil_scoped_release nogil;
            max_pool2d_backward(planes, input_size.h * input_size.w, windows, pdy, pindices, pdx);
        };
        if (has_type<std::int32_t>(indices)) {
            run(borrow<std::int32_t>(indices, "indices", 4));
        } else {
            run(borrow<index_t>(indices, "indices", 4));
        }
        return dx;
    });
}

// ---- convolution, ReLU and max pooling in one ----

py::tuple conv2d_relu_max_pool2d(const py::array& x, const py::array& weight, const std::optional<py::array>& bias,
                                 Pair stride, Padding padding, Pair dilation, index_t groups, Pair kernel,
                                 Pair pool_stride, Pair pool_padding, Pair pool_dilation, bool ceil_mode) {
    const char* const op = "conv2d_relu_max_pool2d";
    const ConvShape s = conv_shape(op, x, weight, stride, padding, dilation, groups);
    const PoolShape p(op, s.n, s.k, s.oh, s.ow, kernel, pool_stride, pool_padding, pool_dilation, ceil_mode);
    require_bias(op, s, bias);
    require(s.oh * s.ow < max_extent, op, "the convolution has 2**31 pixels or more; use conv2d, relu and max_pool2d");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 4);
        const T* const pw = borrow<T>(weight, "weight", 4);
        const T* const pb = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto y = result<T>({p.n, p.c, p.oh, p.ow});
        auto indices = result<std::int32_t>({p.n, p.c, p.oh, p.ow});
        T* const py = y.mutable_data();
        std::int32_t* const pi = indices.mutable_data();
        {
            py::gil_scoped_release nogil;
            conv2d_relu_max_pool2d_forward(s, p, px, pw, pb, py, pi);
        }
        return py::tuple(py::make_tuple(y, indices));
    });
}

py::tuple conv2d_relu_max_pool2d_backward(const py::array& dy, const py::array& indices, const py::array& x,
                                          const py::array& weight, Pair stride, Padding padding, Pair dilation,
                                          index_t groups, Pair kernel, Pair pool_stride, Pair pool_padding,
                                          Pair pool_dilation, bool ceil_mode) {
    const char* const op = "conv2d_relu_max_pool2d_backward";
    const ConvShape s = conv_shape(op, x, weight, stride, padding, dilation, groups);
    const PoolShape p(op, s.n, s.k, s.oh, s.ow, kernel, pool_stride, pool_padding, pool_dilation, ceil_mode);
    require_shape(op, "dy", dy, {p.n, p.c, p.oh, p.ow}, "conv2d_relu_max_pool2d's result");
    require_shape(op, "indices", indices, {p.n, p.c, p.oh, p.ow}, "conv2d_relu_max_pool2d's result");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", 4);
        const std::int32_t* const pi = borrow<std::int32_t>(indices, "indices", 4);
        const T* const px = borrow<T>(x, "x", 4);
        borrow<T>(weight, "weight", 4);
        auto dweight = result<T>({s.k, s.cg(), s.kh, s.kw});
        auto dbias = result<T>({s.k});
        T* const pdw = dweight.mutable_data();
        T* const pdb = dbias.mutable_data();
        {
            py::gil_scoped_release nogil;
            conv2d_relu_max_pool2d_backward_weight(s, p, pdy, pi, px, pdw, pdb);
        }
        return py::tuple(py::make_tuple(dweight, dbias));
    });
}

// ---- fully connected layers, activations ----

py::array gemm_(const py::array& a, const py::array& b, const std::optional<py::array>& bias, bool transpose_a,
                bool transpose_b) {
    if (a.ndim() != 2 || b.ndim() != 2) throw py::type_error("npconv._core: a and b must have 2 axes");
    const index_t m = a.shape(transpose_a ? 1 : 0), k = a.shape(transpose_a ? 0 : 1);
    const index_t n = b.shape(transpose_b ? 0 : 1);
    require(b.shape(transpose_b ? 1 : 0) == k, "gemm", "the inner sizes of a and b differ");
    require(!bias || (bias->ndim() == 1 && bias->shape(0) == n), "gemm", "bias must have one value for each column");
    checked_product("gemm", "the result", {m, n});
    return with_type_of(a, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pa = borrow<T>(a, "a", 2);
        const T* const pb = borrow<T>(b, "b", 2);
        const T* const pbias = bias ? borrow<T>(*bias, "bias", 1) : nullptr;
        auto c = result<T>({m, n});
        T* const pc = c.mutable_data();
        const Matrix<T> ma{pa, a.shape(1), transpose_a}, mb{pb, b.shape(1), transpose_b};
        {
            py::gil_scoped_release nogil;
            gemm(m, n, k, ma, mb, pbias, pc);
        }
        return c;
    });
}

template <class T>
py::array_t<T> result_like(const py::array& x) {
    return new_array<T>(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
}

py::array relu(const py::array& x) {
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", x.ndim());
        auto y = result_like<T>(x);
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            relu_forward(y.size(), px, py);
        }
        return y;
    });
}

py::array relu_backward_(const py::array& dy, const py::array& y) {
    require(dy.size() == y.size(), "relu_backward", "dy and y differ in size");
    return with_type_of(y, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", y.ndim());
        const T* const py = borrow<T>(y, "y", y.ndim());
        auto dx = result_like<T>(y);
        T* const pdx = dx.mutable_data();
        {
            py::gil_scoped_release nogil;
            relu_backward(dx.size(), pdy, py, pdx);
        }
        return dx;
    });
}

// ---- optimizers ----

template <Rule rule>
void update_(py::array w, const py::array& g, std::vector<py::array> kept, const std::vector<double>& numbers) {
    constexpr RuleSizes sizes = rule_sizes[static_cast<int>(rule)];
    require(kept.size() == sizes.kept && numbers.size() == sizes.numbers, "update", "the rule keeps ", sizes.kept,
            " arrays and has ", sizes.numbers, " numbers");
    with_type_of(w, [&](auto zero) {
        using T = decltype(zero);
        const auto borrow_mutable = [&](py::array& array) {
            borrow<T>(array, "w and kept", array.ndim());
            require(array.size() == w.size(), "update", "sizes differ");
            return static_cast<T*>(array.mutable_data());  // refuses a read-only array
        };
        require(g.size() == w.size(), "update", "sizes differ");
        const T* const pg = borrow<T>(g, "g", g.ndim());
        T* const pw = borrow_mutable(w);
        T* pkept[2] = {};
        std::transform(kept.begin(), kept.end(), pkept, borrow_mutable);
        py::gil_scoped_release nogil;
        update(rule, w.size(), pw, pg, pkept[0], pkept[1], numbers.data());
    });
}

// ---- run time ----

py::dict build_info() {
    py::dict info;
    info["version"] = NPCONV_VERSION;
    info["compiler"] =
#if defined(__clang__)
        "Clang " __clang_version__;
#else
        "GCC " __VERSION__;
#endif
    info["openmp"] = has_openmp();
    info["isa_compiled"] = compiled_isas();
    info["isa_supported"] = supported_isas();
    info["isa_in_use"] = kernels().name;
    info["kept_bytes"] = ResultMemory::instance().kept_bytes();
    return info;
}

/// Lets Ctrl-C end a long call; runs on the thread that called us.
void check_interrupt() {
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

int threads_from_environment() {
    const char* value = std::getenv("NPCONV_NUM_THREADS");
    if (!value || !*value) return 0;
    char* end = nullptr;
    const long count = std::strtol(value, &end, 10);
    if (*end || count < 1 || count > most_threads) {
        throw std::invalid_argument("NPCONV_NUM_THREADS is '" + std::string(value) +
                                    "', it must be a whole number from 1 to " + std::to_string(most_threads));
    }
    return static_cast<int>(count);
}

}  // namespace
}  // namespace npconv

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    using namespace npconv;
    m.doc() = "The compiled operators behind npconv.functional.";
    try {
        start_threads(threads_from_environment(), check_interrupt);
        kernels();
    } catch (const std::invalid_argument& error) {
        throw py::import_error(error.what());
    }

    m.def("ready_dtype", &ready_dtype);
    m.def("conv2d", &conv2d);
    m.def("conv2d_backward", &conv2d_backward);
    m.def("conv_output_size", &conv_output_size);
    m.def("im2col", &im2col_);
    m.def("col2im", &col2im_);
    m.def("max_pool2d", &max_pool2d);
    m.def("max_pool2d_backward", &max_pool2d_backward_);
    m.def("conv2d_relu_max_pool2d", &conv2d_relu_max_pool2d);
    m.def("conv2d_relu_max_pool2d_backward", &conv2d_relu_max_pool2d_backward);
    m.def("gemm", &gemm_);
    m.def("relu", &relu);
    m.def("relu_backward", &relu_backward_);
    m.def("sgd_update", &update_<Rule::sgd>);
    m.def("momentum_update", &update_<Rule::momentum>);
    m.def("nesterov_update", &update_<Rule::nesterov>);
    m.def("adagrad_update", &update_<Rule::adagrad>);
    m.def("rmsprop_update", &update_<Rule::rmsprop>);
    m.def("adam_update", &update_<Rule::adam>);

    m.def("get_num_threads", &get_num_threads);
    m.def("set_num_threads", &set_num_threads);
    m.def("release_memory", [] { ResultMemory::instance().release(); });
    m.def("build_info", &build_info);
}
