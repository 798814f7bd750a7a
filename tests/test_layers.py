"""The book's layers against the book's formulas, written out in plain NumPy float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from npconv import conv2d_backward, layers, reference
from npconv.layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    Pooling,
    Relu,
    Sigmoid,
    SoftmaxWithLoss,
)

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


def finite_difference(f: Any, x: np.ndarray) -> np.ndarray:
    """Central difference of the scalar function f for each element of x, which f reads."""
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


def check_against_differences(layer: Any, x: np.ndarray, names: tuple[str, ...] = (), **kwargs: Any) -> None:
    """Compare backward with finite differences of sum(dout * forward(x)), for x and named weights."""
    dout = seeded().standard_normal(layer.forward(x, **kwargs).shape)
    dx = layer.backward(dout)
    grads = {name: getattr(layer, f"d{name}") for name in names}

    def loss() -> float:
        return float(np.sum(dout * layer.forward(x, **kwargs)))

    assert_allclose(dx, finite_difference(loss, x), rtol=1e-5, atol=1e-7)
    for name in names:
        expected = finite_difference(loss, getattr(layer, name))
        assert_allclose(grads[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


# ---- the book's algorithms, as this test writes them ----


def book_columns(x: np.ndarray, h: int, w: int, stride: int, pad: int) -> np.ndarray:
    """Return (N, OH, OW, C*h*w): below each place of the filter, the pixels that it covers."""
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    oh, ow = (x.shape[2] - h) // stride + 1, (x.shape[3] - w) // stride + 1
    rows = [
        x[:, :, i * stride : i * stride + h, j * stride : j * stride + w].reshape(len(x), -1)
        for i in range(oh)
        for j in range(ow)
    ]
    return np.stack(rows, axis=1).reshape(len(x), oh, ow, -1)


def book_scatter(dcol: np.ndarray, shape: tuple[int, ...], h: int, w: int, stride: int, pad: int) -> np.ndarray:
    """Add columns back to the pixels that they came from."""
    N, C, H, W = shape
    dx = np.zeros((N, C, H + 2 * pad, W + 2 * pad))
    for i in range(dcol.shape[1]):
        for j in range(dcol.shape[2]):
            window = dcol[:, i, j].reshape(N, C, h, w)
            dx[:, :, i * stride : i * stride + h, j * stride : j * stride + w] += window
    return dx[:, :, pad : pad + H, pad : pad + W]


def book_convolution(x: np.ndarray, W: np.ndarray, b: np.ndarray, dout: Any, stride: int, pad: int) -> Any:
    """Return y, or for a function that makes dout from y: y, dx, dW and db."""
    FN, _, h, w = W.shape
    col = book_columns(x, h, w, stride, pad)
    y = (col @ W.reshape(FN, -1).T + b).transpose(0, 3, 1, 2)
    d = dout(y).transpose(0, 2, 3, 1)
    dW = np.tensordot(d, col, axes=([0, 1, 2], [0, 1, 2])).reshape(W.shape)
    dx = book_scatter(d @ W.reshape(FN, -1), x.shape, h, w, stride, pad)
    return y, dx, dW, d.sum(axis=(0, 1, 2))


def book_pooling(x: np.ndarray, dout: Any, h: int, w: int, stride: int) -> Any:
    N, C = x.shape[:2]
    col = book_columns(x, h, w, stride, 0)
    oh, ow = col.shape[1:3]
    col = col.reshape(N, oh, ow, C, h * w)
    y = col.max(axis=4).transpose(0, 3, 1, 2)
    dcol = np.zeros_like(col)
    np.put_along_axis(dcol, col.argmax(axis=4)[..., None], dout(y).transpose(0, 2, 3, 1)[..., None], axis=4)
    return y, book_scatter(dcol.reshape(N, oh, ow, -1), x.shape, h, w, stride, 0)


def seeded_dout(y: np.ndarray) -> np.ndarray:
    return np.random.default_rng(9).standard_normal(y.shape)


# ---- Convolution and Pooling ----


@settings(max_examples=40)
@given(
    n=st.integers(1, 3), c=st.integers(1, 4), fn=st.integers(1, 5), h=st.integers(1, 4), w=st.integers(1, 4),
    stride=st.integers(1, 3), pad=st.integers(0, 2), extra=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)  # fmt: skip
def test_convolution_is_the_books(n, c, fn, h, w, stride, pad, extra):
    g = seeded()
    x = g.standard_normal((n, c, h + extra[0], w + extra[1]))
    W, b = g.standard_normal((fn, c, h, w)), g.standard_normal(fn)
    layer = Convolution(W, b, stride, pad)
    y = layer.forward(x)
    dx = layer.backward(seeded_dout(y))
    expected = book_convolution(x, W, b, seeded_dout, stride, pad)
    for actual, wanted in zip((y, dx, layer.dW, layer.db), expected, strict=True):
        assert_allclose(actual, wanted, **TOLERANCE)


@settings(max_examples=40)
@given(
    n=st.integers(1, 3), c=st.integers(1, 4), h=st.integers(1, 3), w=st.integers(1, 3),
    stride=st.integers(1, 3), extra=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)  # fmt: skip
def test_pooling_is_the_books(n, c, h, w, stride, extra):
    # few different values: ties go to the first in row-major order, in both
    x = seeded().integers(-3, 3, (n, c, h + extra[0], w + extra[1])).astype(np.float64)
    layer = Pooling(h, w, stride)
    y = layer.forward(x)
    expected_y, expected_dx = book_pooling(x, seeded_dout, h, w, stride)
    assert_array_equal(y, expected_y)
    assert_allclose(layer.backward(seeded_dout(y)), expected_dx, **TOLERANCE)


def test_convolution_keywords_against_differences():
    g = seeded()
    W, b = g.standard_normal((4, 2, 2, 3)), g.standard_normal(4)
    layer = Convolution(W, b, (2, 1), padding=(1, 2), dilation=(2, 1), groups=2, algorithm="gemm")
    check_against_differences(layer, g.standard_normal((2, 4, 6, 5)), ("W", "b"))


def test_convolution_passes_its_algorithm_on_to_the_gradients():
    g = seeded()
    x, W = (g.standard_normal(shape, dtype=np.float32) for shape in ((2, 32, 16, 16), (32, 32, 3, 3)))
    gradients = {}
    for algorithm in "gemm", "auto":
        layer = Convolution(W, None, pad=1, algorithm=algorithm)
        dx = layer.backward(layer.forward(x))
        expected = conv2d_backward(layer.forward(x), x, W, padding=1, algorithm=algorithm)
        assert_array_equal(dx, expected[0])
        assert_array_equal(layer.dW, expected[1])
        gradients[algorithm] = dx, layer.dW
    assert all(np.any(a != b) for a, b in zip(gradients["gemm"], gradients["auto"], strict=True))


def test_convolution_without_bias_or_dx():
    g = seeded()
    x, W = g.standard_normal((2, 3, 5, 5)), g.standard_normal((4, 3, 3, 3))
    layer = Convolution(W, None)
    assert_allclose(layer.forward(x), Convolution(W, np.zeros(4)).forward(x), **TOLERANCE)
    layer.needs_dx = False
    assert layer.backward(np.ones((2, 4, 3, 3))) is None
    assert layer.db is None
    assert_allclose(layer.dW, book_convolution(x, W, np.zeros(4), np.ones_like, 1, 0)[2], **TOLERANCE)


def test_a_bias_that_is_one_number_stands_for_all_filters():
    """As in the book's apply_filter.py."""
    g = seeded()
    x, W = g.standard_normal((2, 3, 5, 5)), g.standard_normal((4, 3, 3, 3))
    layer = Convolution(W, 0.5)
    assert_array_equal(layer.forward(x), Convolution(W, np.full(4, 0.5)).forward(x))
    layer.backward(np.ones((2, 4, 3, 3)))
    assert_array_equal(layer.db, np.full(4, 18.0))


def test_pad_and_padding_are_one_argument():
    W, x = np.ones((1, 1, 3, 3)), seeded().standard_normal((1, 1, 6, 6))
    assert_array_equal(Convolution(W, None, 1, 1).forward(x), Convolution(W, None, padding=1).forward(x))
    assert Convolution(W, None, padding="same").forward(x).shape == (1, 1, 6, 6)
    assert Pooling(2, 2, padding=1).forward(x).shape == Pooling(2, 2, pad=1).forward(x).shape == (1, 1, 4, 4)
    with pytest.raises(TypeError, match="pad=1 and padding=2 are two names"):
        Convolution(W, None, 1, 1, padding=2)


def test_pooling_counts_pad_and_never_picks_it():
    x = -1 - seeded().random((2, 3, 4, 4))  # the book's border of zeros would win everywhere
    layer = Pooling(3, 3, stride=2, pad=1)
    y = layer.forward(x)
    assert y.shape == (2, 3, 2, 2)
    assert (y < 0).all()
    assert_array_equal(y[:, :, 0, 0], x[:, :, :2, :2].max(axis=(2, 3)))
    assert_allclose(layer.backward(np.ones_like(y)).sum(), y.size)
    check_against_differences(layer, x)


def test_pooling_keywords():
    x = seeded().standard_normal((1, 1, 5, 5))
    y, indices = Pooling(2, 2, stride=None, return_indices=True).forward(x)
    assert y.shape == (1, 1, 2, 2)
    assert_array_equal(x.ravel()[indices.ravel()], y.ravel())
    assert Pooling(2, 2, ceil_mode=True).forward(x).shape == (1, 1, 3, 3)
    assert Pooling(2, 2, dilation=3).forward(x).shape == (1, 1, 1, 1)


# ---- Affine, Relu, Sigmoid ----


def test_affine_is_the_books():
    g = seeded()
    x, W, b = g.standard_normal((5, 2, 3, 4)), g.standard_normal((24, 7)), g.standard_normal(7)
    layer = Affine(W, b)
    y = layer.forward(x)
    dout = seeded_dout(y)
    dx = layer.backward(dout)
    flat = x.reshape(5, 24)
    assert_allclose(y, flat @ W + b, **TOLERANCE)
    assert_allclose(dx, (dout @ W.T).reshape(x.shape), **TOLERANCE)
    assert_allclose(layer.dW, flat.T @ dout, **TOLERANCE)
    assert_allclose(layer.db, dout.sum(axis=0), **TOLERANCE)
    assert_array_equal(layer.x, flat)
    check_against_differences(Affine(W, b), x, ("W", "b"))


def test_affine_of_an_empty_batch():
    layer = Affine(np.ones((12, 5)), np.ones(5))
    assert layer.forward(np.empty((0, 3, 2, 2))).shape == (0, 5)
    assert layer.backward(np.empty((0, 5))).shape == (0, 3, 2, 2)
    assert_array_equal(layer.dW, np.zeros((12, 5)))


def test_relu_is_the_books_but_leaves_dout_alone():
    x = np.array([[-1.5, 0.0, 2.0], [-0.0, np.nan, np.inf]])
    layer = Relu()
    assert layer.mask is None
    assert_array_equal(layer.forward(x), [[0, 0, 2], [0, np.nan, np.inf]])
    assert_array_equal(layer.mask, [[True, True, False], [True, False, False]])
    dout = np.arange(1.0, 7.0).reshape(2, 3)
    assert_array_equal(layer.backward(dout), [[0, 0, 3], [0, 5, 6]])
    assert_array_equal(dout, np.arange(1.0, 7.0).reshape(2, 3))


def test_sigmoid_is_the_books_and_never_overflows():
    x = seeded().standard_normal((3, 4)) * 5
    layer = Sigmoid()
    y = layer.forward(x)
    assert_allclose(y, 1 / (1 + np.exp(-x)), **TOLERANCE)
    dout = seeded_dout(y)
    assert_allclose(layer.backward(dout), dout * (1 - y) * y, **TOLERANCE)
    far = np.array([-1e4, 1e4], np.float32)  # an overflow would be a warning, and a warning an error
    assert_array_equal(layer.forward(far), np.array([0, 1], np.float32))
    assert layer.out.dtype == np.float32


# ---- SoftmaxWithLoss ----


def test_softmax_with_loss_is_the_books():
    g = seeded()
    x, t = g.standard_normal((6, 4)) * 3, g.integers(0, 4, 6).astype(np.uint8)
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    one_hot = np.eye(4, dtype=int)[t]
    for teaching in (t, one_hot):
        layer = SoftmaxWithLoss()
        loss = layer.forward(x, teaching)
        assert_allclose(loss, -np.log(y[np.arange(6), t] + 1e-7).mean(), **TOLERANCE)
        assert layer.loss == loss
        assert layer.t is teaching
        assert_allclose(layer.y, y, **TOLERANCE)
        assert_allclose(layer.backward(), (y - one_hot) / 6, **TOLERANCE)
        assert_allclose(layer.backward(2.0), (y - one_hot) / 3, **TOLERANCE)

    def loss_of_x() -> float:
        return float(layer.forward(x, t))

    # the 1e-7 in the logarithm is not in the book's gradient: a difference of that size
    assert_allclose(layer.backward(), finite_difference(loss_of_x, x), atol=1e-5)


def test_softmax_of_large_scores():
    layer = SoftmaxWithLoss()
    loss = layer.forward(np.array([[1e4, 0.0], [-1e4, 0.0]]), np.array([0, 0]))
    assert_allclose(layer.y, [[1, 0], [0, 1]], atol=1e-12)
    assert_allclose(loss, -np.log(1e-7) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        (np.array([0, 1]), ValueError, r"x has shape \(3, 4\) and t \(2,\)"),
        (np.zeros((3, 5)), ValueError, r"t \(3, 5\)"),
        (np.array([0, 1, 4]), ValueError, r"t holds the label 4; needed are labels in 0\.\.3"),
        (np.array([0, -1, 2]), ValueError, r"t holds the label -1"),
        (np.array([0.0, 1.0, 2.0]), TypeError, "labels must be integers, got dtype float64"),
    ],
)
def test_softmax_with_loss_errors(t, error, message):
    with pytest.raises(error, match=message):
        SoftmaxWithLoss().forward(np.zeros((3, 4)), t)


# ---- Dropout, BatchNormalization ----


def test_dropout_is_the_books():
    x = seeded().standard_normal((50, 3, 2, 2))
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand(*x.shape) > 0.3  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    layer = Dropout(0.3)
    assert_array_equal(layer.forward(x), x * expected)
    assert_array_equal(layer.mask, expected)
    assert_array_equal(layer.backward(np.ones_like(x)), expected)
    assert_allclose(layer.forward(x, train_flg=False), 0.7 * x, **TOLERANCE)
    assert_allclose(layer.backward(np.ones_like(x)), np.full_like(x, 0.7), **TOLERANCE)


def test_dropout_with_its_own_random_numbers():
    x = np.ones((4, 100), np.float32)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = Dropout(0.5, rng=1), Dropout(0.5, rng=np.random.default_rng(1))
    assert_array_equal(a.forward(x), b.forward(x))
    assert (a.forward(x) != b.mask).any(), "each pass draws anew"
    assert_array_equal(np.random.get_state()[1], state, "the global numbers are not touched")  # noqa: NPY002
    assert Dropout(0.5, rng=np.random.RandomState(1)).forward(x).dtype == np.float32


def test_dropout_errors():
    with pytest.raises(ValueError, match=r"dropout_ratio must be between 0 and 1, got 1\.5"):
        Dropout(1.5)
    with pytest.raises(TypeError, match="rng must be None, an int seed or a numpy Generator, got str"):
        Dropout(rng="seed")


def book_batch_normalization(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dout: np.ndarray) -> Any:
    """Forward and backward through the book's graph, one small step at a time."""
    N = len(x)
    mu = x.sum(axis=0) / N
    xc = x - mu
    var = (xc * xc).sum(axis=0) / N
    std = (var + 10e-7) ** 0.5
    xn = xc / std
    dxn = gamma * dout
    dxc = dxn / std
    dstd = -((dxn * xc) / std**2).sum(axis=0)
    dvar = dstd / (2 * std)
    dxc = dxc + 2 / N * xc * dvar
    dx = dxc - dxc.sum(axis=0) / N
    return gamma * xn + beta, dx, (xn * dout).sum(axis=0), dout.sum(axis=0), mu, var


@pytest.mark.parametrize("shape", [(7, 12), (7, 3, 2, 2)])
def test_batch_normalization_is_the_books(shape):
    g = seeded()
    x, gamma, beta = g.standard_normal(shape) * 3 + 1, g.standard_normal(12), g.standard_normal(12)
    dout = g.standard_normal(shape)
    layer = BatchNormalization(gamma, beta)
    y = layer.forward(x)
    dx = layer.backward(dout)
    flat = book_batch_normalization(x.reshape(7, 12), gamma, beta, dout.reshape(7, 12))
    assert_allclose(y, flat[0].reshape(shape), **TOLERANCE)
    assert_allclose(dx, flat[1].reshape(shape), **TOLERANCE)
    assert_allclose(layer.dgamma, flat[2], **TOLERANCE)
    assert_allclose(layer.dbeta, flat[3], **TOLERANCE)
    assert_allclose(layer.running_mean, 0.1 * flat[4], **TOLERANCE)
    assert_allclose(layer.running_var, 0.1 * flat[5], **TOLERANCE)
    layer.forward(x)
    assert_allclose(layer.running_mean, 0.19 * flat[4], **TOLERANCE)
    xn = (x.reshape(7, 12) - layer.running_mean) / np.sqrt(layer.running_var + 10e-7)
    assert_allclose(layer.forward(x, train_flg=False).reshape(7, 12), gamma * xn + beta, **TOLERANCE)


def test_batch_normalization_against_differences():
    g = seeded()
    layer = BatchNormalization(g.standard_normal(6), g.standard_normal(6))
    check_against_differences(layer, g.standard_normal((4, 6)), ("gamma", "beta"))


def test_batch_normalization_keeps_the_callers_statistics():
    mean, var = np.zeros(3), np.ones(3)
    layer = BatchNormalization(np.ones(3), np.zeros(3), 0.5, mean, var)
    layer.forward(np.full((2, 3), 4.0))
    assert_array_equal(mean, np.zeros(3))
    assert_array_equal(layer.running_mean, np.full(3, 2.0))
    assert_array_equal(layer.running_var, np.full(3, 0.5))


# ---- what holds for all ----


def every_layer(dtype: Any) -> list[tuple[Any, np.ndarray]]:
    """Return each layer with an input, all of `dtype`."""
    g = seeded()

    def draw(*shape: int) -> np.ndarray:
        return g.standard_normal(shape).astype(dtype)

    images = draw(3, 2, 6, 6)
    return [
        (Relu(), images),
        (Sigmoid(), images),
        (Affine(draw(72, 5), draw(5)), images),
        (Dropout(0.5, rng=0), images),
        (BatchNormalization(draw(72), draw(72)), images),
        (Convolution(draw(4, 2, 3, 3), draw(4), 1, 1), images),
        (Pooling(2, 2), images),
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_stays_and_inputs_are_left_alone(dtype):
    for layer, x in every_layer(dtype):
        x.flags.writeable = False
        for value in vars(layer).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        y = layer.forward(x)
        dout = np.ones_like(y)
        dout.flags.writeable = False
        dx = layer.backward(dout)
        assert dx.shape == x.shape
        assert y is not x
        arrays = {"y": y, "dx": dx, **vars(layer)}
        wrong = {
            name: a.dtype
            for name, a in arrays.items()
            if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.dtype != dtype
        }
        assert not wrong, type(layer).__name__


def test_loss_stays_float32():
    layer = SoftmaxWithLoss()
    x = seeded().standard_normal((3, 4)).astype(np.float32)
    for t in (np.array([0, 1, 3]), np.eye(4)[:3]):
        assert layer.forward(x, t).dtype == layer.y.dtype == layer.backward().dtype == np.float32


@pytest.mark.parametrize("make", [lambda W, b: Affine(W, b), lambda W, b: Convolution(W, b)])
def test_weights_are_read_afresh(make):
    g = seeded()
    shape = (3, 2, 1, 1) if isinstance(make(None, None), Convolution) else (2, 3)
    x = g.standard_normal((4, 2, 1, 1))
    W, b = g.standard_normal(shape), g.standard_normal(3)
    layer = make(W, b)
    before = layer.forward(x)
    W *= 2  # as an optimizer does
    b += 1
    expected = make(W.copy(), b.copy()).forward(x)
    assert_array_equal(layer.forward(x), expected)
    assert (expected != before).all()
    layer.W, layer.b = 3 * W, -b  # as the book's load_params does
    assert_array_equal(layer.forward(x), make(3 * W, -b).forward(x))


def test_gradients_are_new_arrays_each_time():
    for layer, x in every_layer(np.float64):
        if hasattr(layer, "dW"):
            dout = np.ones_like(layer.forward(x))
            layer.backward(dout)
            first = layer.dW, layer.dW.copy()
            layer.forward(2 * x)
            layer.backward(dout)
            assert_array_equal(first[0], first[1])


def test_backward_before_forward_says_so():
    for layer in (Relu(), Sigmoid(), Affine(np.ones((2, 2)), None), SoftmaxWithLoss(), Pooling(2, 2)):
        with pytest.raises(ValueError, match=f"{type(layer).__name__}.backward needs a forward pass first"):
            layer.backward(np.ones((2, 2)))


def test_layers_can_be_copied():
    for layer, x in every_layer(np.float64):
        twin = copy.deepcopy(layer)
        assert_array_equal(twin.forward(x), layer.forward(x))


def test_every_layer_also_runs_on_plain_numpy(monkeypatch):
    native = [(layer.forward(x), layer.backward(np.ones_like(layer.forward(x)))) for layer, x in every_layer(float)]
    monkeypatch.setattr(layers, "F", reference)
    for (layer, x), (y, _) in zip(every_layer(float), native, strict=True):
        assert_allclose(layer.forward(x), y, **TOLERANCE)
    monkeypatch.undo()
    assert layers.F is not reference
