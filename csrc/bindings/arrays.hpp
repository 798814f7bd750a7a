// Borrowing NumPy's arrays and making new ones. Arguments have been through npconv/functional; what would be unsafe is
// checked again, here (type and layout) and in shape.hpp (sizes).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "../shape.hpp"
#include "../workspace.hpp"

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

/// `whose`: what else has this shape.
inline std::string text_of(const py::object& sizes) { return py::str(py::tuple(sizes)).cast<std::string>(); }

inline void require_shape(const char* op, const char* name, const py::array& array,
                          std::initializer_list<index_t> shape, const char* whose) {
    if (std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) return;
    refuse(op, name, " has shape ", text_of(array.attr("shape")), "; needed is that of ", whose, ", ",
           text_of(py::cast(std::vector<index_t>(shape))));
}

/// Refuses an array that is no row of `length` values, one for each of `what`.
inline void require_row(const char* op, const char* name, const py::array& array, index_t length, const char* what) {
    require(array.ndim() == 1 && array.shape(0) == length, op, name, " must have shape (", length,
            ",), one value for each ", what, "; it has ", text_of(array.attr("shape")));
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

template <class T>
py::array_t<T> result_like(const py::array& x) {
    return new_array<T>(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
}

/// A result that the caller may not need: None, and no memory, then.
template <class T>
struct Wanted {
    py::object array = py::none();
    T* data = nullptr;

    Wanted(bool wanted, std::initializer_list<index_t> sizes) {
        if (!wanted) return;
        auto made = result<T>(sizes);
        data = made.mutable_data();
        array = std::move(made);
    }
};

// Each file of bindings adds its operators to the module.
void bind_convolution(py::module_& m);
void bind_pooling(py::module_& m);
void bind_columns(py::module_& m);
void bind_dense(py::module_& m);
void bind_normalization(py::module_& m);

}  // namespace npconv
