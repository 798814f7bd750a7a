// Batch normalization and local response normalization.
#include "../normalization.hpp"

#include "arrays.hpp"

namespace npconv {
namespace {

/// Images, or any array (n, c, ...).
ChannelShape channel_shape(const char* op, const py::array& x) {
    require(x.ndim() >= 2, op, "x has ", x.ndim(), " axes; needed are at least 2, samples and channels");
    require(x.shape(1) >= 1, op, "x has no channels");
    index_t plane = 1;
    for (int axis = 2; axis < x.ndim(); ++axis) plane *= x.shape(axis);
    if (x.ndim() == 4) {
        require(plane >= 1, op, "x has an empty image of ", Pair{x.shape(2), x.shape(3)}, " pixels");
    }
    require(plane >= 1, op, "x has an empty axis behind the channels");
    return {x.shape(0), x.shape(1), plane};
}

template <class T>
const T* borrow_channels(const char* op, const std::optional<py::array>& array, const char* name, index_t channels) {
    if (!array) return nullptr;
    require_row(op, name, *array, channels, "channel");
    return borrow<T>(*array, name, 1);
}

using MaybeArray = std::optional<py::array>;

py::tuple batch_norm(const py::array& x, const MaybeArray& weight, const MaybeArray& bias, MaybeArray mean,
                     MaybeArray var, double epsilon) {
    const char* const op = "batch_norm";
    const ChannelShape s = channel_shape(op, x);
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", x.ndim());
        const T* const pweight = borrow_channels<T>(op, weight, "weight", s.c);
        const T* const pbias = borrow_channels<T>(op, bias, "bias", s.c);
        auto y = result_like<T>(x);
        T* const py = y.mutable_data();
        T *new_mean = nullptr, *new_var = nullptr;
        if (!mean) {
            auto mean_array = result<T>({s.c}), var_array = result<T>({s.c});
            new_mean = mean_array.mutable_data(), new_var = var_array.mutable_data();
            mean = mean_array, var = var_array;
        }
        const T* const pmean = borrow_channels<T>(op, mean, "mean", s.c);
        const T* const pvar = borrow_channels<T>(op, var, "var", s.c);
        {
            py::gil_scoped_release nogil;
            if (new_mean) batch_moments(s, px, new_mean, new_var);
            batch_norm_forward(s, px, pmean, pvar, pweight, pbias, epsilon, py);
        }
        return py::tuple(py::make_tuple(y, *mean, *var));
    });
}

py::tuple batch_norm_backward_(const py::array& dy, const py::array& x, const MaybeArray& weight, const py::array& mean,
                               const py::array& var, double epsilon, bool training, bool needs_dx) {
    const char* const op = "batch_norm_backward";
    const ChannelShape s = channel_shape(op, x);
    require(dy.size() == x.size(), op, "dy and x differ in size");
    return with_type_of(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", x.ndim());
        const T* const px = borrow<T>(x, "x", x.ndim());
        const T* const pweight = borrow_channels<T>(op, weight, "weight", s.c);
        const T* const pmean = borrow_channels<T>(op, mean, "mean", s.c);
        const T* const pvar = borrow_channels<T>(op, var, "var", s.c);
        py::object dx = py::none();
        T* pdx = nullptr;
        if (needs_dx) {
            auto made = result_like<T>(x);
            pdx = made.mutable_data();
            dx = std::move(made);
        }
        auto dweight = result<T>({s.c}), dbias = result<T>({s.c});
        T *const pdweight = dweight.mutable_data(), *const pdbias = dbias.mutable_data();
        {
            py::gil_scoped_release nogil;
            batch_norm_backward(s, pdy, px, pmean, pvar, pweight, epsilon, training, pdx, pdweight, pdbias);
        }
        return py::tuple(py::make_tuple(dx, dweight, dbias));
    });
}

py::array local_response_norm(const py::array& x, index_t size, double alpha, double beta, double k) {
    const ChannelShape s = channel_shape("local_response_norm", x);
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", x.ndim());
        auto y = result_like<T>(x);
        T* const py = y.mutable_data();
        {
            py::gil_scoped_release nogil;
            local_response_norm_forward(s, {size, alpha, beta, k}, px, py);
        }
        return y;
    });
}

py::array local_response_norm_backward_(const py::array& dy, const py::array& x, const py::array& y, index_t size,
                                        double alpha, double beta, double k) {
    const char* const op = "local_response_norm_backward";
    const ChannelShape s = channel_shape(op, x);
    require(dy.size() == x.size() && y.size() == x.size(), op, "dy, x and y differ in size");
    return with_type_of(x, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const pdy = borrow<T>(dy, "dy", x.ndim());
        const T* const px = borrow<T>(x, "x", x.ndim());
        const T* const py = borrow<T>(y, "y", x.ndim());
        auto dx = result_like<T>(x);
        T* const pdx = dx.mutable_data();
        {
            py::gil_scoped_release nogil;
            local_response_norm_backward(s, {size, alpha, beta, k}, pdy, px, py, pdx);
        }
        return dx;
    });
}

}  // namespace

void bind_normalization(py::module_& m) {
    m.def("batch_norm", &batch_norm);
    m.def("batch_norm_backward", &batch_norm_backward_);
    m.def("local_response_norm", &local_response_norm);
    m.def("local_response_norm_backward", &local_response_norm_backward_);
}

}  // namespace npconv
