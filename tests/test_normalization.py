"""local_response_norm, batch_norm and their gradients: by hand, against plain NumPy, and the rules at the corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    assert_close,
    assert_float16_is_computed_in_float32,
    assert_layout_changes_no_bit,
    assert_threads_change_no_bit,
    numerical_gradient,
)
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

X, C = np.ones((2, 3, 4, 4)), np.ones(3)
SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 6), st.integers(1, 40))


# ---- local_response_norm ----


def test_local_response_norm_of_3_channels_by_hand() -> None:
    x = np.array([1.0, 2, 3]).reshape(1, 3, 1, 1)
    # With alpha = size the sum of squares itself counts: 1 + 4, 1 + 4 + 9, 4 + 9.
    y = npconv.local_response_norm(x, 3, alpha=3, beta=1, k=1)
    np.testing.assert_allclose(y.ravel(), [1 / 6, 2 / 15, 3 / 14], rtol=1e-15)
    # Of an even number of neighbours the one more lies before the channel.
    y = npconv.local_response_norm(x, 2, alpha=2, beta=1, k=1)
    np.testing.assert_allclose(y.ravel(), [1 / 2, 2 / 6, 3 / 14], rtol=1e-15)
    # d(x / (1 + x*x))/dx = (1 - x*x) / (1 + x*x)**2
    y = npconv.local_response_norm(x, 1, 1, 1, 1)
    dx = npconv.local_response_norm_backward(np.ones_like(x), x, y, 1, 1, 1, 1)
    np.testing.assert_allclose(dx.ravel(), [0, -3 / 25, -8 / 100], rtol=0, atol=1e-15)


def test_local_response_norm_defaults() -> None:
    x = np.full((1, 1, 1, 1), 100.0)
    assert npconv.local_response_norm(x, 1).item() == pytest.approx(100 / 2**0.75, rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    shape=SHAPES,
    size=st.integers(1, 11),
    alpha=st.floats(0, 3),
    beta=st.sampled_from([0.5, 0.75, 1.0, 1.7]),
    k=st.floats(0.5, 3),
    seed=st.integers(0, 99),
)
def test_local_response_norm_is_the_reference(
    dtype: type, shape: tuple, size: int, alpha: float, beta: float, k: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, dy, arguments = rng.standard_normal(shape), rng.standard_normal(shape), (size, alpha, beta, k)
    expected = reference.local_response_norm(x, *arguments)
    y = npconv.local_response_norm(x.astype(dtype), *arguments)
    assert y.dtype == dtype
    assert_close(y, expected, size)
    dx = npconv.local_response_norm_backward(dy.astype(dtype), x.astype(dtype), y, *arguments)
    assert dx.dtype == dtype
    assert_close(dx, reference.local_response_norm_backward(dy, x, expected, *arguments), 2 * size)


@pytest.mark.parametrize("arguments", [(3, 0.5, 0.75, 1), (4, 2, 1.3, 0.7), (9, 0.1, 0.5, 2)])
def test_local_response_norm_gradient_is_finite_differences(rng: np.random.Generator, arguments: tuple) -> None:
    x, dy = rng.standard_normal((2, 6, 2, 3)), rng.standard_normal((2, 6, 2, 3))
    expected = numerical_gradient(lambda: npconv.local_response_norm(x, *arguments), x, dy, 1e-5)
    y = npconv.local_response_norm(x, *arguments)
    dx = npconv.local_response_norm_backward(dy, x, y, *arguments)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 64, 27, 27), (1, 200, 3, 5), (3, 5, 100, 130)])
def test_local_response_norm_of_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple) -> None:
    x, arguments = np.random.default_rng(7).standard_normal(shape), (5, 1e-2, 0.75, 2)
    y = reference.local_response_norm(x, *arguments)
    dx = reference.local_response_norm_backward(np.sin(x), x, y, *arguments)

    def both() -> tuple:
        y = npconv.local_response_norm(x.astype(dtype), *arguments)
        dy = np.sin(x).astype(dtype)
        return y, npconv.local_response_norm_backward(dy, x.astype(dtype), y, *arguments)

    for a, e in zip(both(), (y, dx), strict=True):
        assert_close(a, e, 10)
    assert_threads_change_no_bit(both)


def test_local_response_norm_of_nan_and_infinity() -> None:
    """They reach the channels that have them as a neighbour, of the same pixel: a number over infinity is 0."""
    x = np.ones((1, 5, 1, 30))
    x[0, 1, 0, 2], x[0, 4, 0, 17] = np.nan, np.inf
    y = npconv.local_response_norm(x, 3, 3, 1, 1)[0, :, 0]
    expected = np.repeat([1 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 3], 30).reshape(5, 30)
    expected[:3, 2], expected[3, 17], expected[4, 17] = np.nan, 0, np.nan
    np.testing.assert_allclose(y, expected, rtol=1e-14)


def test_local_response_norm_of_single_image_and_empty_batch(rng: np.random.Generator) -> None:
    """(C, H, W) is one image, of which the first axis is normalised."""
    x = rng.standard_normal((6, 4, 5))
    y = npconv.local_response_norm(x, 3, 1)
    np.testing.assert_array_equal(y, npconv.local_response_norm(x[np.newaxis], 3, 1)[0], strict=True)
    dx = npconv.local_response_norm_backward(y, x, y, 3, 1, 0.75, 1.0)
    batch = npconv.local_response_norm_backward(y[np.newaxis], x[np.newaxis], y[np.newaxis], 3, 1, 0.75, 1.0)
    np.testing.assert_array_equal(dx, batch[0], strict=True)
    x = np.zeros((0, 3, 4, 5), np.float32)
    y = npconv.local_response_norm(x, 3)
    assert (y.shape, y.dtype) == (x.shape, np.float32)
    assert npconv.local_response_norm_backward(y, x, y, 3, 1e-4, 0.75, 1.0).shape == x.shape


# ---- batch_norm ----


def test_batch_norm_by_hand() -> None:
    """Two channels, of mean 5 and 7 and variance 16 and 0; with eps = 9 the roots are 5 and 3."""
    x = np.array([[1.0, 7], [9, 7]])
    y, mean, var = npconv.batch_norm(x, eps=9)
    np.testing.assert_allclose(y, [[-0.8, 0], [0.8, 0]], rtol=0, atol=1e-15)
    assert (mean.tolist(), var.tolist()) == ([5, 7], [16, 0])
    y, _, _ = npconv.batch_norm(x, np.array([10.0, 2]), np.array([100.0, 3]), eps=9)
    np.testing.assert_allclose(y, [[92, 3], [108, 3]], rtol=1e-15)
    given_mean, given_var = np.array([1.0, 1]), np.array([7.0, 0])
    y, mean, var = npconv.batch_norm(x, mean=given_mean, var=given_var, eps=9)
    np.testing.assert_allclose(y, [[0, 2], [2, 2]], rtol=0, atol=1e-15)
    assert (mean.tolist(), var.tolist()) == ([1, 1], [7, 0])


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x with 0 to 3 axes behind N and C, dy, weight and bias."""
    c, spatial = draw(st.integers(1, 20)), draw(st.lists(st.integers(1, 12), max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(2, 6)), c, *spatial
    x = rng.standard_normal(shape) * rng.uniform(0.5, 2) + rng.standard_normal()
    return x, rng.standard_normal(shape), rng.standard_normal(c), rng.standard_normal(c)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=batches(), affine=st.booleans(), eps=st.sampled_from([1e-2, 0.1, 1.0]))
def test_batch_norm_is_the_reference(training: bool, dtype: type, case: tuple, affine: bool, eps: float) -> None:
    x, dy, weight, bias = case
    parameters = (weight, bias) if affine else (None, None)
    given: dict[str, Any] = {} if training else {"mean": bias / 2, "var": np.abs(weight) + 0.5}

    def cast(a: np.ndarray | None) -> np.ndarray | None:
        return None if a is None else a.astype(dtype)

    expected = reference.batch_norm(x, *parameters, eps=eps, **given)
    results = npconv.batch_norm(cast(x), *map(cast, parameters), eps=eps, **{k: cast(a) for k, a in given.items()})
    gradients = npconv.batch_norm_backward(
        cast(dy), cast(x), cast(parameters[0]), *results[1:], eps=eps, training=training
    )
    expected_gradients = reference.batch_norm_backward(dy, x, parameters[0], *expected[1:], eps=eps, training=training)
    for a, e in zip((*results, *gradients), (*expected, *expected_gradients), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, 30 * x[:, 0].size)  # a small variance magnifies the error of what it divides


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 2, 3, 2), (5, 3), (3, 2, 4)])
def test_batch_norm_gradients_are_finite_differences(rng: np.random.Generator, training: bool, shape: tuple) -> None:
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    weight, bias = rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    given: dict[str, Any] = {"eps": 0.1}
    if not training:
        given |= {"mean": rng.standard_normal(shape[1]), "var": rng.uniform(1, 2, shape[1])}
    _, mean, var = npconv.batch_norm(x, weight, bias, **given)
    gradients = npconv.batch_norm_backward(dy, x, weight, mean, var, eps=0.1, training=training)
    for parameter, gradient in zip((x, weight, bias), gradients, strict=True):
        expected = numerical_gradient(lambda: npconv.batch_norm(x, weight, bias, **given)[0], parameter, dy, 1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_batch_norm_brings_every_channel_to_mean_0_and_variance_1(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 7, 5, 6)) * 3 + 10
    y, mean, var = npconv.batch_norm(x, eps=1e-12)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), np.zeros(7), rtol=0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), np.ones(7), rtol=1e-10)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(var, x.var(axis=(0, 2, 3)), rtol=1e-12)


def test_batch_norm_of_a_mean_far_from_0_keeps_its_variance(rng: np.random.Generator) -> None:
    """In float32, mean(x*x) - mean(x)**2 would lose all digits of the variance."""
    x = (rng.standard_normal((30, 4, 20, 20)) + 3000).astype(np.float32)
    y, mean, var = npconv.batch_norm(x)
    expected_y, expected_mean, expected_var = reference.batch_norm(x.astype(np.float64))
    np.testing.assert_allclose(mean, expected_mean, rtol=2e-7)
    np.testing.assert_allclose(var, expected_var, rtol=1e-4)
    np.testing.assert_allclose(y, expected_y, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(50, 16, 28, 28), (700, 9), (2, 3, 400, 300), (1, 300, 4, 4), (64, 513), (3, 1, 50000)]
)
def test_batch_norm_of_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple) -> None:
    rng = np.random.default_rng(8)
    arrays = rng.standard_normal(shape), rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    x, weight, bias = (a.astype(dtype) for a in arrays)
    results = reference.batch_norm(*arrays)
    gradients = reference.batch_norm_backward(np.sin(arrays[0]), *arrays[:2], *results[1:])

    def everything() -> tuple:
        y, mean, var = npconv.batch_norm(x, weight, bias)
        dy = np.sin(arrays[0]).astype(dtype)
        return y, mean, var, *npconv.batch_norm_backward(dy, x, weight, mean, var)

    for a, e in zip(everything(), (*results, *gradients), strict=True):
        assert_close(a, e, x[:, 0].size)
    assert_threads_change_no_bit(everything)


def test_batch_norm_needs_leaves_out(rng: np.random.Generator) -> None:
    x, dy, weight = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((2, 3, 4, 4)), rng.standard_normal(3)
    _, mean, var = npconv.batch_norm(x)
    for training in (True, False):
        everything = npconv.batch_norm_backward(dy, x, weight, mean, var, training=training)
        for needs in np.ndindex(2, 2, 2):
            some = npconv.batch_norm_backward(
                dy, x, weight, mean, var, training=training, needs=tuple(bool(n) for n in needs)
            )
            for need, a, e in zip(needs, some, everything, strict=True):
                if need:
                    np.testing.assert_array_equal(a, e)
                else:
                    assert a is None


def test_batch_norm_of_nan_and_infinity_spoils_its_own_channel_alone(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4, 5, 6))
    clean, mean, var = npconv.batch_norm(x)
    x[1, 2, 3, 4], x[0, 0, 0, 0] = np.nan, np.inf
    y, spoilt_mean, spoilt_var = npconv.batch_norm(x)
    assert np.isnan(y[:, 2]).all()
    assert np.isnan(y[0, 0, 0, 0])
    np.testing.assert_array_equal(y[:, 1::2], clean[:, 1::2])
    np.testing.assert_array_equal(spoilt_mean[1::2], mean[1::2])
    np.testing.assert_array_equal(spoilt_var[1::2], var[1::2])
    y, _, _ = npconv.batch_norm(x, mean=mean, var=var)  # with given statistics, its own pixel alone
    assert np.isnan(y).sum() == np.isinf(y).sum() == 1


def test_batch_norm_of_an_empty_batch() -> None:
    x = np.zeros((0, 3, 4, 4), np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    y, _, _ = npconv.batch_norm(x, mean=mean, var=var)
    assert (y.shape, y.dtype) == (x.shape, np.float32)
    dx, dweight, dbias = npconv.batch_norm_backward(y, x, None, mean, var, training=False)
    assert dx.shape == x.shape
    assert dweight.tolist() == dbias.tolist() == [0, 0, 0]
    y, mean, var = npconv.batch_norm(x)
    assert y.shape == x.shape
    assert mean.tolist() == var.tolist() == [0, 0, 0]


# ---- both ----


def test_layout_makes_no_difference(rng: np.random.Generator) -> None:
    x, dy, weight, bias = (rng.standard_normal(shape) for shape in ((2, 3, 5, 4), (2, 3, 5, 4), 3, 3))
    mean, var = rng.standard_normal(3), rng.uniform(0.5, 2, 3)

    def everything(*arrays: np.ndarray) -> tuple:
        x, dy, weight, bias, mean, var = arrays
        y = npconv.local_response_norm(x, 3, 1)
        return (
            y,
            npconv.local_response_norm_backward(dy, x, y, 3, 1, 0.75, 1),
            npconv.batch_norm(x, weight, bias)[0],
            npconv.batch_norm(x, weight, bias, mean=mean, var=var)[0],
            *npconv.batch_norm_backward(dy, x, weight, mean, var),
        )

    for dtype in DTYPES:
        assert_layout_changes_no_bit(everything, *(a.astype(dtype) for a in (x, dy, weight, bias, mean, var)))


def test_float16(rng: np.random.Generator) -> None:
    x, dy, weight, bias = (rng.standard_normal(shape) for shape in ((2, 3, 5, 4), (2, 3, 5, 4), 3, 3))
    mean, var = rng.standard_normal(3), rng.uniform(0.5, 2, 3)

    def everything(x: np.ndarray, dy: np.ndarray, weight: np.ndarray, bias: np.ndarray, *given: np.ndarray) -> tuple:
        return (
            npconv.local_response_norm(x, 3, 1),
            npconv.local_response_norm_backward(dy, x, dy, 3, 1, 0.75, 1),
            npconv.batch_norm(x, weight, bias)[0],
            npconv.batch_norm(x, weight, bias, mean=given[0], var=given[1])[0],
            *npconv.batch_norm_backward(dy, x, weight, *given),
        )

    assert_float16_is_computed_in_float32(everything, x, dy, weight, bias, mean, var)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: npconv.local_response_norm(X.astype(int), 3), TypeError, "local_response_norm: x is int64"),
        (lambda: npconv.local_response_norm(X[0, 0], 3), ValueError, r"local_response_norm: x has shape \(4, 4\)"),
        (lambda: npconv.local_response_norm(X, 0), ValueError, "local_response_norm: size is 0"),
        (lambda: npconv.local_response_norm(X, 2.5), TypeError, "local_response_norm: size is 2.5"),
        (lambda: npconv.local_response_norm(X, 3, None), TypeError, "local_response_norm: alpha is None"),
        (lambda: npconv.local_response_norm(X[:, :0], 3), ValueError, "local_response_norm: x has no channels"),
        (lambda: npconv.local_response_norm(X[..., :0], 3), ValueError, r"local_response_norm: .*image .*\(4, 0\)"),
        (
            lambda: npconv.local_response_norm_backward(X[:1], X, X, 3, 1, 1, 1),
            ValueError,
            r"local_response_norm_backward: dy has shape \(1, 3, 4, 4\)",
        ),
        (
            lambda: npconv.local_response_norm_backward(X, X, X[..., :3], 3, 1, 1, 1),
            ValueError,
            r"local_response_norm_backward: .*y.* \(2, 3, 4, 3\)",
        ),
        (lambda: npconv.batch_norm(X.astype(int)), TypeError, "batch_norm: x is int64"),
        (lambda: npconv.batch_norm(C), ValueError, "batch_norm: x has "),
        (lambda: npconv.batch_norm(X[:, :0]), ValueError, "batch_norm: x has no channels"),
        (lambda: npconv.batch_norm(X, C[:2]), ValueError, r"batch_norm: weight .*shape \(3,\)"),
        (lambda: npconv.batch_norm(X, C, np.ones((3, 1))), ValueError, r"batch_norm: bias .*shape \(3,\)"),
        (lambda: npconv.batch_norm(X, mean=C), ValueError, "batch_norm: .*var"),
        (lambda: npconv.batch_norm(X, var=C), ValueError, "batch_norm: .*mean"),
        (lambda: npconv.batch_norm(X, mean=C, var=np.ones(4)), ValueError, r"batch_norm: var .*shape \(3,\)"),
        (lambda: npconv.batch_norm(X, mean=np.ones(2), var=C), ValueError, r"batch_norm: mean .*shape \(3,\)"),
        (lambda: npconv.batch_norm(X, eps=-1.0), ValueError, "batch_norm: eps is -1"),
        (lambda: npconv.batch_norm(X, eps=None), TypeError, "batch_norm: eps is None"),
        (lambda: npconv.batch_norm(X[..., :0]), ValueError, "batch_norm: x has "),
        (lambda: npconv.batch_norm_backward(X[:1], X, C, C, C), ValueError, "batch_norm_backward: dy has shape"),
        (
            lambda: npconv.batch_norm_backward(X, X, C[:2], C, C),
            ValueError,
            r"batch_norm_backward: weight .*shape \(3,\)",
        ),
        (lambda: npconv.batch_norm_backward(X, X, C, C, C[:1]), ValueError, r"batch_norm_backward: var .*shape \(3,\)"),
        (
            lambda: npconv.batch_norm_backward(X, X, C, C, C, needs=(True,)),
            ValueError,
            "batch_norm_backward: needs is",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
