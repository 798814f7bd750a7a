// Fully connected layers, ReLU, the loss, and the updates of the optimizers.
#include <functional>

#include "../elementwise.hpp"
#include "../gemm.hpp"
#include "arrays.hpp"

namespace npconv {
namespace {

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

/// Labels (rows) in int64, or weights (rows, classes) of T.
template <class T>
Targets<T> targets_of(const py::array& x, const py::array& t) {
    constexpr const char* op = "softmax_cross_entropy";
    const index_t rows = x.shape(0), classes = x.shape(1);
    if (t.ndim() == 2) {
        require_shape(op, "t", t, {rows, classes}, "x");
        return {rows, classes, nullptr, borrow<T>(t, "t", 2)};
    }
    require_shape(op, "t", t, {rows}, "x without the classes");
    const index_t* const labels = borrow<index_t>(t, "t", 1);
    for (index_t n = 0; n < rows; ++n) {
        require(labels[n] >= 0 && labels[n] < classes, op, "t holds the label ", labels[n],
                "; needed are labels in 0..", classes - 1);
    }
    return {rows, classes, labels, nullptr};
}

py::tuple softmax_cross_entropy_(const py::array& x, const py::array& t, double epsilon) {
    return with_type_of(x, [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const T* const px = borrow<T>(x, "x", 2);
        const Targets<T> targets = targets_of<T>(x, t);
        auto y = result_like<T>(x);
        T* const py = y.mutable_data();
        double loss = 0;
        {
            py::gil_scoped_release nogil;
            loss = softmax_cross_entropy(targets, px, epsilon, py);
        }
        return py::make_tuple(loss, y);
    });
}

py::array softmax_cross_entropy_backward_(const py::array& y, const py::array& t, double scale) {
    return with_type_of(y, [&](auto zero) -> py::array {
        using T = decltype(zero);
        const T* const py = borrow<T>(y, "y", 2);
        const Targets<T> targets = targets_of<T>(y, t);
        auto dx = result_like<T>(y);
        T* const pdx = dx.mutable_data();
        {
            py::gil_scoped_release nogil;
            softmax_cross_entropy_backward(targets, py, scale, pdx);
        }
        return dx;
    });
}

/// One step for all parameters of a network: nothing is changed before everything has been checked. `kept` holds what
/// the rule keeps of the first parameter, then of the second, and so on.
template <Rule rule>
void update_(std::vector<py::array> params, const std::vector<py::array>& grads, std::vector<py::array> kept,
             const std::vector<double>& numbers) {
    constexpr RuleSizes sizes = rule_sizes[static_cast<int>(rule)];
    const std::size_t each = sizes.kept;
    require(grads.size() == params.size() && kept.size() == each * params.size() && numbers.size() == sizes.numbers,
            "update", "every parameter has a gradient, the rule keeps ", sizes.kept, " arrays of it and has ",
            sizes.numbers, " numbers");
    std::vector<std::function<void()>> steps;
    for (std::size_t i = 0; i < params.size(); ++i) {
        py::array& w = params[i];
        const py::array& g = grads[i];
        with_type_of(w, [&](auto zero) {
            using T = decltype(zero);
            const auto borrow_mutable = [&](py::array& array) {
                borrow<T>(array, "params and kept", array.ndim());
                require(array.size() == w.size(), "update", "sizes differ");
                return static_cast<T*>(array.mutable_data());  // refuses a read-only array
            };
            require(g.size() == w.size(), "update", "sizes differ");
            const T* const pg = borrow<T>(g, "grads", g.ndim());
            T* const pw = borrow_mutable(w);
            T* const first = each > 0 ? borrow_mutable(kept[i * each]) : nullptr;
            T* const second = each > 1 ? borrow_mutable(kept[i * each + 1]) : nullptr;
            steps.push_back([=, n = w.size(), &numbers] { update(rule, n, pw, pg, first, second, numbers.data()); });
        });
    }
    py::gil_scoped_release nogil;
    for (const auto& step : steps) step();
}

}  // namespace

void bind_dense(py::module_& m) {
    m.def("gemm", &gemm_);
    m.def("relu", &relu);
    m.def("relu_backward", &relu_backward_);
    m.def("softmax_cross_entropy", &softmax_cross_entropy_);
    m.def("softmax_cross_entropy_backward", &softmax_cross_entropy_backward_);
    m.def("sgd_update", &update_<Rule::sgd>);
    m.def("momentum_update", &update_<Rule::momentum>);
    m.def("nesterov_update", &update_<Rule::nesterov>);
    m.def("adagrad_update", &update_<Rule::adagrad>);
    m.def("rmsprop_update", &update_<Rule::rmsprop>);
    m.def("adam_update", &update_<Rule::adam>);
}

}  // namespace npconv
