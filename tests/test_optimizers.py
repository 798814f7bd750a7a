"""The optimizers against their formulas, written out in plain NumPy float64 over several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import npconv
from npconv.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop

STEPS = 7


def sgd(w: Any, gradients: Any, lr: float = 0.01) -> Any:
    for g in gradients:
        w = w - lr * g
    return w


def momentum(w: Any, gradients: Any, lr: float = 0.01, momentum: float = 0.9) -> Any:
    v = 0
    for g in gradients:
        v = momentum * v - lr * g
        w = w + v
    return w


def nesterov(w: Any, gradients: Any, lr: float = 0.01, momentum: float = 0.9) -> Any:
    """The method as Nesterov states it, in the variable that the book's formula keeps: the look-ahead.

    velocity = momentum * velocity - lr * gradient(look-ahead), position += velocity, and the
    look-ahead is position + momentum * velocity.
    """
    position, velocity = w, 0
    for g in gradients:
        velocity = momentum * velocity - lr * g
        position = position + velocity
    return position + momentum * velocity


def adagrad(w: Any, gradients: Any, lr: float = 0.01) -> Any:
    h = 0
    for g in gradients:
        h = h + g**2
        w = w - lr * g / (h**0.5 + 1e-7)
    return w


def rmsprop(w: Any, gradients: Any, lr: float = 0.01, decay_rate: float = 0.99) -> Any:
    h = 0
    for g in gradients:
        h = decay_rate * h + (1 - decay_rate) * g**2
        w = w - lr * g / (h**0.5 + 1e-7)
    return w


def adam(w: Any, gradients: Any, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> Any:
    m = v = 0
    for i, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr * (1 - beta2**i) ** 0.5 / (1 - beta1**i) * m / (v**0.5 + 1e-7)
    return w


RULES = [
    (SGD, sgd, {"lr": 0.3}),
    (Momentum, momentum, {"lr": 0.3, "momentum": 0.7}),
    (Nesterov, nesterov, {"lr": 0.3, "momentum": 0.7}),
    (AdaGrad, adagrad, {"lr": 0.3}),
    (RMSprop, rmsprop, {"lr": 0.3, "decay_rate": 0.8}),
    (Adam, adam, {"lr": 0.3, "beta1": 0.8, "beta2": 0.95}),
]
each_rule = pytest.mark.parametrize(
    ("optimizer", "formula", "options"), RULES, ids=lambda v: getattr(v, "__name__", "")
)
each_optimizer = pytest.mark.parametrize("optimizer", [rule[0] for rule in RULES])

# W is shared among threads, and its last share is short and no whole number of vectors
SHAPES = {"W": (3, 16385), "b": (5,), "scale": (), "empty": (0, 3)}


def draw(dtype: Any = np.float64) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Return parameters, and gradients for each step."""
    rng = np.random.default_rng(5)

    def one() -> dict[str, np.ndarray]:
        return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}

    return one(), [one() for _ in range(STEPS)]


@each_rule
@pytest.mark.parametrize("defaults", [True, False])
def test_formula(optimizer, formula, options, defaults):
    options = {} if defaults else options
    params, gradients = draw()
    start = {name: param.copy() for name, param in params.items()}
    rule = optimizer(**options)
    for grads in gradients:
        rule.update(params, grads)
    for name, param in params.items():
        expected = formula(start[name], [grads[name] for grads in gradients], **options)
        assert_allclose(param, expected, rtol=1e-11, atol=1e-11, err_msg=name)


@each_optimizer
def test_in_place_and_gradients_are_left_alone(optimizer):
    params, (grads, *_) = draw()
    arrays = dict(params)
    for grad in grads.values():
        grad.flags.writeable = False
    rule = optimizer()
    before = params["W"].copy()
    rule.update(params, grads)
    assert all(params[name] is arrays[name] for name in params)
    assert (params["W"] != before).all()


@each_optimizer
def test_float32_stays_float32(optimizer):
    params, gradients = draw(np.float32)
    wide, _ = draw()
    narrow_rule, wide_rule = optimizer(), optimizer()
    for grads in gradients:
        narrow_rule.update(params, grads)
        wide_rule.update(wide, {name: grad.astype(np.float64) for name, grad in grads.items()})
    assert all(param.dtype == np.float32 for param in params.values())
    kept = [a for a in narrow_rule.state_dict().values() if isinstance(a, np.ndarray)]
    assert all(a.dtype == np.float32 for a in kept)
    for name in params:
        assert_allclose(params[name], wide[name], atol=1e-5)


@each_optimizer
def test_any_memory_layout(optimizer):
    _, gradients = draw()
    plain = {"W": np.ones((4, 6))}
    odd = {"W": np.ones((6, 8)).T[::2]}  # not contiguous in any order
    rules = optimizer(), optimizer()
    for i in range(STEPS):
        grad = gradients[i]["W"][:2, :12].reshape(4, 6)
        rules[0].update(plain, {"W": grad})
        rules[1].update(odd, {"W": np.asfortranarray(grad)})
    assert_array_equal(odd["W"], plain["W"])


@each_optimizer
def test_odd_arrays_give_the_same(optimizer):
    """Big-endian weights, gradients of another dtype, state as from a file."""
    _, gradients = draw(np.float32)
    plain, odd = {"W": np.ones(12, np.float32)}, {"W": np.ones(12, ">f4")}
    rules = optimizer(), optimizer()
    for i in range(STEPS):
        grad = gradients[i]["W"][0, :12]
        rules[0].update(plain, {"W": grad})
        rules[1].update(odd, {"W": grad.astype(np.float64).tolist()})
        rules[1].load_state_dict({k: v.astype(">f4") if np.ndim(v) else v for k, v in rules[1].state_dict().items()})
    assert odd["W"].dtype == np.dtype(">f4")
    assert_array_equal(odd["W"], plain["W"])


@each_optimizer
def test_float16_is_computed_in_float32(optimizer):
    params, gradients = {"W": np.ones(12, np.float16)}, draw(np.float16)[1]
    wide = {"W": np.ones(12, np.float32)}
    rules = optimizer(), optimizer()
    for grads in gradients:
        grad = {"W": grads["W"][0, :12]}
        wide["W"][...] = params["W"]
        rules[0].update(params, grad)
        rules[1].update(wide, grad)
        assert_array_equal(params["W"], wide["W"].astype(np.float16))
    assert params["W"].dtype == np.float16


@each_optimizer
def test_number_of_threads_makes_no_difference(optimizer):
    results = []
    for threads in (1, 3):
        params, gradients = draw(np.float32)
        rule = optimizer()
        with npconv.threads(threads):
            for grads in gradients:
                rule.update(params, grads)
        results.append(params["W"])
    assert_array_equal(*results)


@each_optimizer
def test_state_goes_on_bitwise(optimizer):
    """Saved after 3 steps and loaded into a new optimizer, the rest runs as if never stopped."""
    params, gradients = draw(np.float32)
    rule = optimizer(lr=0.02)
    for grads in gradients[:3]:
        rule.update(params, grads)
    state = {name: np.asarray(value) for name, value in rule.state_dict().items()}  # as files return them
    copies = {name: param.copy() for name, param in params.items()}
    for grads in gradients[3:]:
        rule.update(params, grads)

    other = optimizer()
    other.load_state_dict(state)
    for grads in gradients[3:]:
        other.update(copies, grads)
    for name in params:
        assert_array_equal(copies[name], params[name])
    for name, value in other.state_dict().items():
        assert_array_equal(value, rule.state_dict()[name])
        assert type(value) is type(rule.state_dict()[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [Momentum, Nesterov, RMSprop, Adam])
def test_what_fades_never_gets_subnormal(optimizer, dtype):
    """A gradient that stays zero from now on: subnormal numbers would slow each update down."""
    w = {"W": np.ones(8, dtype)}
    rule = optimizer(lr=1e-3)
    rule.update(w, {"W": np.logspace(-20, 0, 8, dtype=dtype)})
    if dtype == np.float64:  # it would take too many updates to fade from here
        state = rule.state_dict()
        rule.load_state_dict({k: v * 1e-280 if np.ndim(v) else v for k, v in state.items()})
    kept = []
    for _ in range(1200):
        rule.update(w, {"W": np.zeros(8, dtype)})
        kept += [a.copy() for a in rule.state_dict().values() if isinstance(a, np.ndarray)]
    sizes = np.abs(np.array(kept))
    subnormal = (sizes > 0) & (sizes < np.finfo(dtype).tiny)
    assert subnormal[200:].mean() < 1e-3
    assert (sizes[-1] == 0).any()


def test_state_is_a_copy():
    params, (grads, *_) = draw()
    rule = Adam()
    rule.update(params, grads)
    state = rule.state_dict()
    before = state["m/W"].copy()
    rule.update(params, grads)
    assert_array_equal(state["m/W"], before)
    assert sorted(state) == sorted(
        ["beta1", "beta2", "iter", "lr", *(f"{slot}/{name}" for slot in "mv" for name in SHAPES)]
    )


def test_state_of_another_optimizer_is_refused():
    params, (grads, *_) = draw()
    rule = Momentum()
    rule.update(params, grads)
    adam = Adam()
    with pytest.raises(ValueError, match=r"Adam.load_state_dict: the state has \['iter', 'lr', 'momentum', 'v'\]"):
        adam.load_state_dict(rule.state_dict())
    assert adam.iter == 0
    assert not adam.v


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"W": np.ones((2, 3))}, "parameter 'b' has no gradient"),
        ({"W": np.ones((2, 3)), "b": None}, "parameter 'b' has no gradient"),
        ({"W": np.ones((2, 3)), "b": np.ones(1)}, r"'b' has shape \(3,\), its gradient \(1,\)"),
    ],
)
def test_errors_come_before_any_change(grads, message):
    params = {"W": np.zeros((2, 3)), "b": np.zeros(3)}
    rule = Adam()
    with pytest.raises(ValueError, match=message):
        rule.update(params, grads)
    assert not params["W"].any()
    assert rule.iter == 0


@pytest.mark.parametrize(
    ("params", "grads", "message"),
    [
        ({"b": np.ones(2), "W": np.ones(3, int)}, {"b": np.ones(2), "W": np.ones(3)}, "parameter 'W' is int64; needed"),
        ({"b": np.ones(2), "W": np.ones(3)}, {"b": np.ones(2), "W": np.ones(3) * 1j}, "gradient of 'W' is complex128"),
    ],
)
@each_optimizer
def test_types_that_are_refused(optimizer, params, grads, message):
    rule = optimizer()
    with pytest.raises(TypeError, match=message):
        rule.update(params, grads)
    assert rule.iter == 0
    assert (params["b"] == 1).all()


@each_optimizer
def test_read_only_weights_are_refused(optimizer):
    w = np.ones(3)
    w.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only|not writeable"):
        optimizer().update({"W": w}, {"W": np.ones(3)})


def test_kept_arrays_of_another_shape_are_refused():
    rule = Momentum()
    rule.update({"W": np.zeros(3)}, {"W": np.ones(3)})
    with pytest.raises(ValueError, match="what the optimizer keeps"):
        rule.update({"W": np.zeros(4)}, {"W": np.ones(4)})


def test_the_books_example_descends():
    """Book, section 6.1.7: f(x, y) = x**2 / 20 + y**2 from (-7, 2); all come near the bottom."""
    for rule in (SGD(0.95), Momentum(0.1), Nesterov(0.1), AdaGrad(1.5), RMSprop(0.1), Adam(0.3)):
        params = {"x": -7.0, "y": 2.0}  # plain numbers, as there
        for _ in range(100):
            rule.update(params, {"x": params["x"] / 10, "y": 2 * params["y"]})
        assert params["x"] ** 2 / 20 + params["y"] ** 2 < 0.1, type(rule).__name__
        assert all(type(number) is float for number in params.values())


@pytest.mark.parametrize("optimizer", [SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam])
def test_numbers_are_updated_as_arrays_are(optimizer):
    numbers, arrays = {"x": -7.0, "W": np.ones(2)}, {"x": np.array(-7.0), "W": np.ones(2)}
    rules = optimizer(), optimizer()
    for _ in range(5):
        for rule, params in zip(rules, (numbers, arrays), strict=True):
            rule.update(params, {"x": params["x"] / 10, "W": params["W"]})
    assert numbers["x"] == arrays["x"] != -7
    assert_array_equal(numbers["W"], arrays["W"])
    assert [rule.iter for rule in rules] == [5, 5]
