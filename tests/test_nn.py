"""The layers of `npconv.nn`: numbers, gradients, initial weights and states, beside finite differences and PyTorch."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from npconv import conv2d_backward, layers, nn


class Case(NamedTuple):
    """A layer under both libraries' common constructor, and the shape of an input."""

    kind: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]

    @property
    def has_weights(self) -> bool:
        return self.kind in {"Conv2d", "ConvTranspose2d", "Linear", "BatchNorm2d"}

    def make(self, dtype: Any = np.float64, rng: Any = 5) -> Any:
        extra = {"dtype": dtype, "rng": rng} if self.has_weights else {}
        return getattr(nn, self.kind)(*self.arguments, **self.options, **extra)

    def input(self, dtype: Any = np.float64) -> np.ndarray:
        return np.random.default_rng(6).standard_normal(self.shape).astype(dtype)


CASES = [
    Case("Conv2d", (3, 6, 5), {}, (4, 3, 12, 11)),
    Case("Conv2d", (4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2), {"bias": False}, (2, 4, 9, 8)),
    Case("Conv2d", (3, 4, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 3, 6, 7)),
    Case("Conv2d", (3, 4, 3, 1, 1), {}, (3, 6, 7)),
    Case("ConvTranspose2d", (3, 4, 3, 2, 1, 1), {}, (2, 3, 5, 4)),
    Case("ConvTranspose2d", (4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, False, (1, 2)), {}, (2, 4, 5, 4)),
    Case("MaxPool2d", (3, 2, 1), {}, (2, 3, 8, 9)),
    Case("MaxPool2d", (2,), {"ceil_mode": True, "dilation": 2}, (2, 3, 8, 9)),
    Case("AvgPool2d", (3, 2, 1, True, False), {}, (2, 3, 8, 9)),
    Case("AvgPool2d", ((2, 3),), {"divisor_override": 4}, (2, 3, 8, 9)),
    Case("AdaptiveAvgPool2d", ((3, None),), {}, (2, 3, 8, 5)),
    Case("Linear", (12, 5), {}, (4, 12)),
    Case("Linear", (6, 5, False), {}, (2, 3, 6)),
    Case("Linear", (6, 5), {}, (6,)),
    Case("ReLU", (), {}, (3, 4, 5)),
    Case("Sigmoid", (), {}, (3, 4)),
    Case("Tanh", (), {}, (3, 4)),
    Case("Softmax", (1,), {}, (3, 4, 2)),
    Case("Softmax", (-1,), {}, (3, 4)),
    Case("BatchNorm2d", (3,), {}, (4, 3, 5, 4)),
    Case("BatchNorm2d", (3, 1e-3, 0.3, False), {}, (4, 3, 5, 4)),
    Case("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 4)),
    Case("BatchNorm2d", (3,), {"momentum": None}, (4, 3, 5, 4)),
    Case("LocalResponseNorm", (5, 1e-2, 0.75, 2.0), {}, (2, 8, 3, 4)),
    Case("Flatten", (), {}, (2, 3, 4, 5)),
    Case("Flatten", (0, 2), {}, (2, 3, 4, 5)),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}{case.arguments}{case.options}")


def gradient_of(y: np.ndarray) -> np.ndarray:
    return np.random.default_rng(9).standard_normal(y.shape).astype(y.dtype)


def finite_difference(f: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """Central difference of f for each element of x, which f reads."""
    gradient, h = np.empty_like(x), 1e-6
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + h
        above = f()
        x[index] = value - h
        below = f()
        x[index] = value
        gradient[index] = (above - below) / (2 * h)
    return gradient


def check_against_differences(layer: Any, x: np.ndarray) -> None:
    dy = gradient_of(layer(x))
    dx = layer.backward(dy)
    grads = dict(layer.grads)
    assert list(grads) == list(layer.parameters())

    def loss() -> float:
        return float(np.sum(dy * layer(x)))

    assert_allclose(dx, finite_difference(loss, x), rtol=1e-5, atol=1e-7)
    for name, parameter in layer.parameters().items():
        assert_allclose(grads[name], finite_difference(loss, parameter), rtol=1e-5, atol=1e-7, err_msg=name)


# ---- what holds for every layer ----


@EVERY_CASE
def test_backward_is_the_gradient(case):
    layer = case.make()
    for parameter in layer.parameters().values():  # batch normalization starts with ones and zeros
        parameter += 0.1 * np.random.default_rng(1).standard_normal(parameter.shape)
    check_against_differences(layer, case.input())


@EVERY_CASE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_stays_and_inputs_are_left_alone(case, dtype):
    layer, x = case.make(dtype), case.input(dtype)
    x.flags.writeable = False
    for parameter in layer.parameters().values():
        parameter.flags.writeable = False
    y = layer.forward(x)
    dy = gradient_of(y)
    dy.flags.writeable = False
    dx = layer.backward(dy)
    assert dx.shape == x.shape
    assert {array.dtype for array in (y, dx, *layer.parameters().values(), *layer.grads.values())} == {np.dtype(dtype)}
    shapes = {name: array.shape for name, array in layer.parameters().items()}
    assert {name: grad.shape for name, grad in layer.grads.items()} == shapes


@EVERY_CASE
def test_gradients_are_of_the_last_pass_and_replace_the_earlier_ones(case):
    layer, x = case.make(), case.input()
    dy = gradient_of(layer(x))
    layer.backward(dy)
    first = dict(layer.grads)
    kept = copy.deepcopy(first)
    layer(x)
    layer.backward(dy)
    for name, grad in layer.grads.items():
        assert_array_equal(grad, kept[name], err_msg="not added up")
        assert grad is not first[name]
    layer(x + 1)
    layer.backward(2 * dy)
    for name, grad in first.items():
        assert_array_equal(grad, kept[name], err_msg="an array once returned stays as it is")


@EVERY_CASE
def test_backward_before_forward_says_so(case):
    with pytest.raises(ValueError, match=f"{case.kind}.backward needs a forward pass first"):
        case.make().backward(np.ones((2, 2)))


@EVERY_CASE
def test_without_needs_dx_the_weights_still_get_their_gradients(case):
    layer, x = case.make(), case.input()
    dy = gradient_of(layer(x))
    layer.backward(dy)
    expected = layer.grads
    layer.needs_dx = False
    dx = layer.backward(dy)
    assert (dx is None) == case.has_weights
    for name, grad in layer.grads.items():
        assert_allclose(grad, expected[name], rtol=0, atol=1e-12)


# ---- PyTorch ----


def to_torch(module: Any, case: Case, dtype: Any) -> Any:
    """Return PyTorch's layer with the same state."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, case.kind)(*case.arguments, **case.options)
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in module.state_dict().items()})
    return theirs


@EVERY_CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_numbers_are_pytorchs(case, dtype, tolerance):
    torch = pytest.importorskip("torch")
    ours = case.make(dtype)
    for parameter in ours.parameters().values():
        parameter += 0.1 * np.random.default_rng(1).standard_normal(parameter.shape).astype(dtype)
    theirs = to_torch(ours, case, dtype)
    for mode in (True, True, False):  # twice in training: running statistics move twice
        ours.train(mode)
        theirs.train(mode)
        x = case.input(dtype)
        their_x = torch.from_numpy(x).requires_grad_()
        their_y = theirs(their_x)
        y = ours(x)
        assert_allclose(y, their_y.detach().numpy(), rtol=0, atol=tolerance)
        dy = gradient_of(y)
        theirs.zero_grad()
        their_y.backward(torch.from_numpy(dy))
        assert_allclose(ours.backward(dy), their_x.grad.numpy(), rtol=0, atol=tolerance)
        for name, parameter in theirs.named_parameters():
            assert_allclose(ours.grads[name], parameter.grad.numpy(), rtol=0, atol=10 * tolerance, err_msg=name)
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert_allclose(state[name], tensor.numpy(), rtol=0, atol=tolerance, err_msg=name)
        assert state[name].shape == tuple(tensor.shape)


KINDS = [kind for kind in nn.__all__ if kind not in {"Module", "Sequential", "CrossEntropyLoss", "convnet"}]


@pytest.mark.parametrize("kind", KINDS)
def test_constructors_are_pytorchs(kind):
    torch = pytest.importorskip("torch")

    def positional(cls: Any) -> list[tuple[str, Any]]:
        signature = inspect.signature(cls.__init__).parameters.values()
        named = [(p.name, p.default) for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD]
        return [pair for pair in named if pair[0] not in {"self", "device", "dtype"}]

    assert positional(getattr(nn, kind)) == positional(getattr(torch.nn, kind))


def test_convolution_passes_its_algorithm_on_to_the_gradients():
    conv = nn.Conv2d(32, 32, 3, rng=0)
    conv.algorithm = "gemm"
    x = np.random.default_rng(0).standard_normal((2, 32, 16, 16), dtype=np.float32)
    y = conv(x)
    dx = conv.backward(y)
    expected = conv2d_backward(y, x, conv.weight, algorithm="gemm")
    assert_array_equal(dx, expected[0])
    assert_array_equal(conv.grads["weight"], expected[1])
    assert np.any(dx != conv2d_backward(y, x, conv.weight)[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.kind in {"Conv2d", "ConvTranspose2d", "Linear"}])
def test_initial_weights_are_spread_as_pytorchs(case):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for name in case.make().parameters():
        ours = np.sort(np.concatenate([case.make(rng=rng).parameters()[name].ravel() for _ in range(200)]))
        theirs = [getattr(getattr(torch.nn, case.kind)(*case.arguments, **case.options), name) for _ in range(200)]
        theirs = np.sort(np.concatenate([tensor.detach().numpy().ravel() for tensor in theirs]))
        quantiles = np.linspace(0, 1, 21)
        spread = theirs[-1] - theirs[0]
        assert_allclose(np.quantile(ours, quantiles), np.quantile(theirs, quantiles), rtol=0, atol=0.06 * spread)
        assert_allclose(ours[[0, -1]], theirs[[0, -1]], rtol=0.01)


# ---- weights: how they start, and how they pass on ----


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda rng: nn.Conv2d(8, 40, 5, groups=2, rng=rng), 4 * 5 * 5),
        (lambda rng: nn.ConvTranspose2d(40, 30, (3, 5), groups=2, rng=rng), 15 * 3 * 5),
        (lambda rng: nn.Linear(300, 70, rng=rng), 300),
    ],
)
def test_initial_weights(make, fan_in):
    bound = 1 / math.sqrt(fan_in)
    layer = make(3)
    for array in (layer.weight, layer.bias):
        assert array.dtype == np.float32
        assert np.abs(array).max() <= bound
        assert len(np.unique(array)) > 0.99 * array.size
    assert_allclose(np.quantile(layer.weight, [0.25, 0.5, 0.75]) / bound, [-0.5, 0, 0.5], atol=0.05)
    assert_allclose(np.abs(layer.weight).max(), bound, rtol=0.01)
    assert np.abs(layer.bias).max() > 0.8 * bound

    assert_array_equal(make(3).weight, layer.weight)
    assert_array_equal(make(np.random.default_rng(3)).bias, layer.bias)
    assert (make(4).weight != layer.weight).any()
    np.random.seed(1)  # noqa: NPY002
    first, second = make(None), make(None)
    np.random.seed(1)  # noqa: NPY002
    assert_array_equal(make(None).weight, first.weight)
    assert (first.weight != second.weight).any()


def test_parameters_are_live_and_the_state_is_a_copy():
    layer = nn.Linear(3, 2, rng=0)
    x = np.ones((1, 3), np.float32)
    state, before = layer.state_dict(), layer(x)
    assert layer.parameters()["weight"] is layer.weight
    layer.parameters()["bias"] += 1
    assert_allclose(layer(x), before + 1, rtol=1e-6)
    assert_allclose(state["bias"], layer.bias - 1, rtol=1e-6)
    layer.weight = np.zeros((2, 3), np.float32)
    assert layer.parameters()["weight"] is layer.weight, "a weight that is replaced counts at once"
    assert_array_equal(layer(x)[0], layer.bias)


def test_load_state_dict_writes_in_place():
    layer, other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    other(np.random.default_rng(0).standard_normal((4, 3, 2, 2)))
    weight, mean = layer.weight, layer.running_mean
    layer.load_state_dict(other.state_dict())
    assert layer.weight is weight
    assert layer.running_mean is mean
    assert_array_equal(mean, other.running_mean)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bias"), r"Linear.load_state_dict: missing are \['bias'\], unknown are \[\]"),
        (lambda state: state.update(b=1), r"missing are \[\], unknown are \['b'\]"),
        (lambda state: state.update(weight=np.zeros((3, 2))), r"parameter 'weight' has shape \(3, 2\)"),
        (lambda state: state.update(weight=np.zeros((2, 3), complex)), "parameter 'weight' has .* complex128"),
    ],
)
def test_load_state_dict_errors(change, message):
    layer = nn.Linear(3, 2)
    state = {name: array + 1 for name, array in layer.state_dict().items()}
    before = layer.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict(state)
    assert_array_equal(layer.weight, before["weight"])
    assert_array_equal(layer.bias, before["bias"])


def test_parameters_in_files(tmp_path):
    layer, twin = nn.Linear(3, 2, rng=0), nn.Linear(3, 2, rng=1)
    layer.save_params(tmp_path / "layer.npz")
    twin.load_params(tmp_path / "layer.npz")
    assert_array_equal(twin.weight, layer.weight)
    with pytest.raises(ValueError, match=r"layer\.npz: .*unknown are \['weight', 'bias'\]"):
        nn.ReLU().load_params(tmp_path / "layer.npz")


def test_a_layer_of_ones_own():
    class Scale(nn.Module):
        parameter_names = ("factor",)

        def __init__(self) -> None:
            super().__init__()
            self.factor = np.array(3.0)

        def forward(self, x: np.ndarray) -> np.ndarray:
            self.x = x
            return self.factor * x

        def backward(self, dy: np.ndarray) -> np.ndarray:
            self.grads = {"factor": np.sum(dy * self.x)}
            return self.factor * dy

    check_against_differences(nn.Sequential(nn.Tanh(), Scale()), np.ones((2, 3)))
    with pytest.raises(TypeError, match="abstract"):
        nn.Module()


# ---- single layers ----


def test_max_pool_and_unpool():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5, 7))
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    y, indices = pool(x)
    assert indices.dtype == np.int64
    assert_array_equal(pool.indices, indices)
    back = unpool(y, indices, x.shape)
    assert back.shape == x.shape
    assert np.count_nonzero(back) == y.size
    assert_array_equal(back[back != 0], x[back != 0])
    dback = rng.standard_normal(back.shape)
    at_indices = np.take_along_axis(dback.reshape(2, 3, 35), indices.reshape(2, 3, 6), axis=2)
    assert_array_equal(unpool.backward(dback), at_indices.reshape(y.shape))
    assert unpool(y, indices % 24).shape == (2, 3, 4, 6), "without output_size: the smallest image"
    with pytest.raises(ValueError, match=r"MaxUnpool2d.backward needs a forward pass first"):
        nn.MaxUnpool2d(2).backward(y)


def test_max_pool_in_eval_mode_finds_its_indices_when_backward_wants_them():
    pool, x = nn.MaxPool2d(3, stride=2, padding=1), np.random.default_rng(0).standard_normal((2, 3, 9, 9))
    y = pool(x)
    dy = gradient_of(y)
    dx = pool.backward(dy)
    pool.eval()
    assert_array_equal(pool(x), y)
    assert pool.indices is None
    assert_array_equal(pool.backward(dy), dx)
    assert nn.MaxPool2d(2, return_indices=True).eval()(x)[1].dtype == np.int64


def test_max_unpool_is_pytorchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    back = nn.MaxUnpool2d(2)(y, indices, x.shape)
    their_y, their_indices = torch.nn.MaxPool2d(2, return_indices=True)(torch.from_numpy(x))
    assert_array_equal(indices, their_indices.numpy())
    assert_array_equal(back, torch.nn.MaxUnpool2d(2)(their_y, their_indices, output_size=x.shape).numpy())


def test_relu_and_dropout_take_inplace_and_work_on_copies():
    x = np.array([[-1.0, 2.0]])
    assert_array_equal(nn.ReLU(inplace=True)(x), [[0, 2]])
    nn.Dropout(0.5, True, rng=0)(x)
    assert_array_equal(x, [[-1, 2]])


@pytest.mark.parametrize(("shape", "axis"), [((3,), 0), ((3, 4), 1), ((2, 3, 4), 0), ((2, 3, 4, 5), 1)])
def test_softmax_without_dim_takes_pytorchs_axis(shape, axis):
    x = np.random.default_rng(0).standard_normal(shape)
    layer = nn.Softmax()
    y = layer(x)
    assert_allclose(y, np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True), rtol=1e-12)
    check_against_differences(layer, x)


def test_flatten_of_an_empty_batch_and_of_wrong_axes():
    assert nn.Flatten()(np.empty((0, 3, 2, 2))).shape == (0, 12)
    with pytest.raises(ValueError, match=r"Flatten: start_dim is 1 and end_dim -1; x has shape \(5,\)"):
        nn.Flatten()(np.ones(5))


def test_dropout_is_inverted():
    x = np.random.default_rng(0).standard_normal((200, 50)).astype(np.float32)
    layer = nn.Dropout(0.2, rng=1)
    y = layer(x)
    kept = y != 0
    assert abs(kept.mean() - 0.8) < 0.02
    assert_allclose(y[kept], x[kept] / 0.8, rtol=1e-6)
    dy = np.ones_like(x)
    assert_allclose(layer.backward(dy), np.where(kept, 1 / 0.8, 0), rtol=1e-6)
    assert y.dtype == layer.backward(dy).dtype == np.float32
    assert (layer(x) != y).any(), "each pass draws anew"
    assert_array_equal(nn.Dropout(0.2, rng=np.random.default_rng(1))(x), y)
    layer.eval()
    assert_array_equal(layer(x), x)
    assert_array_equal(layer.backward(dy), dy)
    assert_array_equal(nn.Dropout(0)(x), x)
    assert not nn.Dropout(1)(x).any()


def test_batch_norm_by_hand():
    rng = np.random.default_rng(0)
    x, dy = 3 * rng.standard_normal((2, 4, 3, 5, 6)) + 1, rng.standard_normal((4, 3, 5, 6))
    layer = nn.BatchNorm2d(3, dtype=np.float64)
    layer.weight += rng.random(3)
    layer.bias += rng.random(3)
    mean, var = np.zeros(3), np.ones(3)
    for batch in x:
        y = layer(batch)
        m, v = batch.mean(axis=(0, 2, 3)), batch.var(axis=(0, 2, 3))
        mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * 120 / 119
    scale = (layer.weight / np.sqrt(v + 1e-5)).reshape(3, 1, 1)
    assert_allclose(y, (x[1] - m.reshape(3, 1, 1)) * scale + layer.bias.reshape(3, 1, 1), rtol=1e-10, atol=1e-10)
    assert_allclose(layer.running_mean, mean, rtol=1e-12)
    assert_allclose(layer.running_var, var, rtol=1e-12)
    assert layer.num_batches_tracked == 2

    layer.eval()
    scale = (layer.weight / np.sqrt(var + 1e-5)).reshape(3, 1, 1)
    assert_allclose(layer(x[0]), (x[0] - mean.reshape(3, 1, 1)) * scale + layer.bias.reshape(3, 1, 1), rtol=1e-10)
    assert_allclose(layer.backward(dy), dy * scale, rtol=1e-10)
    assert layer.num_batches_tracked == 2
    check_against_differences(layer, x[0])


def test_both_families_normalize_alike():
    x = np.random.default_rng(0).standard_normal((6, 4))
    book = layers.BatchNormalization(np.ones(4), np.zeros(4))
    ours = nn.BatchNorm2d(4, eps=1e-6, dtype=np.float64)
    assert_allclose(ours(x.reshape(6, 4, 1, 1)).reshape(6, 4), book.forward(x), rtol=1e-12)
    assert_allclose(ours.backward(x.reshape(6, 4, 1, 1)).reshape(6, 4), book.backward(x), rtol=1e-12, atol=1e-12)


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "Conv2d: in_channels is 3; needed is a multiple of groups"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "Conv2d: out_channels is 3; needed is a multiple"),
        (lambda: nn.Conv2d(3, 4, 0), ValueError, "Conv2d: kernel_size is 0; it must be at least 1"),
        (lambda: nn.Conv2d(0, 4, 3), ValueError, "Conv2d: in_channels is 0; it must be at least 1"),
        (lambda: nn.Conv2d(3.0, 4, 3), TypeError, "Conv2d: in_channels is 3.0; needed is an int"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "padding_mode is 'reflect'"),
        (lambda: nn.Linear(0, 4), ValueError, "Linear: in_features is 0; it must be at least 1"),
        (lambda: nn.Linear(3, 4, dtype=np.float16), TypeError, "Linear: dtype must be float32 or float64, got float16"),
        (lambda: nn.Linear(3, 4, rng="1"), TypeError, "rng must be None, an int seed"),
        (lambda: nn.BatchNorm2d(3, dtype=int), TypeError, "BatchNorm2d: dtype must be float32 or float64, got int64"),
        (lambda: nn.Dropout(1.5), ValueError, r"Dropout: p must be between 0 and 1, got 1\.5"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 2, 5, 5))), ValueError, "conv2d: weight has 3 input channels"),
        (lambda: nn.Linear(3, 4)(np.ones((2, 5))), ValueError, "linear: x has 5 columns, weight has 3"),
        (lambda: nn.BatchNorm2d(3)(np.ones((2, 4, 5, 5))), ValueError, r"BatchNorm2d: x has shape \(2, 4, 5, 5\)"),
        (lambda: nn.BatchNorm2d(3)(np.ones((2, 3))), ValueError, r"needed is \(N, 3, H, W\)"),
        (lambda: nn.BatchNorm2d(3)(np.ones((1, 3, 1, 1))), ValueError, "training needs more than one value"),
        (
            lambda: nn.CrossEntropyLoss()(np.zeros((3, 4)), np.array([0, 1, 4])),
            ValueError,
            r"t holds the label 4; needed are labels in 0\.\.3",
        ),
        (lambda: nn.CrossEntropyLoss().backward(), ValueError, "CrossEntropyLoss.backward needs a forward pass first"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
