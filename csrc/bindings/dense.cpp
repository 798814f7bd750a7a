// Fully connected layers, ReLU, and the updates of the optimizers.
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

}  // namespace

void bind_dense(py::module_& m) {
    m.def("gemm", &gemm_);
    m.def("relu", &relu);
    m.def("relu_backward", &relu_backward_);
    m.def("sgd_update", &update_<Rule::sgd>);
    m.def("momentum_update", &update_<Rule::momentum>);
    m.def("nesterov_update", &update_<Rule::nesterov>);
    m.def("adagrad_update", &update_<Rule::adagrad>);
    m.def("rmsprop_update", &update_<Rule::rmsprop>);
    m.def("adam_update", &update_<Rule::adam>);
}

}  // namespace npconv
