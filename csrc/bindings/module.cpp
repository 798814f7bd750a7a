// The module, a table of contents. The files of this folder are the only ones that know pybind11: every function in
// them borrows its arrays, allocates its results, releases the GIL and calls an operator.
#include <cstdlib>

#include "../dispatch.hpp"
#include "../parallel.hpp"
#include "arrays.hpp"

namespace npconv {
namespace {

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
    info["isa_in_use"] = isa_in_use();
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
    bind_convolution(m);
    bind_pooling(m);
    bind_columns(m);
    bind_dense(m);
    bind_normalization(m);

    m.def("get_num_threads", &get_num_threads);
    m.def("set_num_threads", &set_num_threads);
    m.def("release_memory", [] { ResultMemory::instance().release(); });
    m.def("build_info", &build_info);
}
