"""max_unpool2d and its gradient: by hand, against plain NumPy, and the rules at the corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    assert_float16_is_computed_in_float32,
    assert_layout_changes_no_bit,
    assert_threads_change_no_bit,
    numerical_gradient,
    pairs,
)
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

X, INDICES = np.ones((1, 2, 2, 2)), np.array([[[[0, 2], [9, 15]]] * 2]).reshape(1, 2, 2, 2)


def test_4x4_by_hand() -> None:
    x = np.array([[1, 2, 1, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 4, 0, 1]], float)[np.newaxis]
    y, indices = npconv.max_pool2d(x, 2, return_indices=True)
    unpooled = npconv.max_unpool2d(y, indices, 2)
    np.testing.assert_array_equal(unpooled[0], [[0, 2, 0, 0], [0, 0, 0, 3], [0, 0, 0, 2], [0, 4, 0, 0]])
    dx = npconv.max_unpool2d_backward(x * 10, indices, y.shape)
    np.testing.assert_array_equal(dx, y * 10)


def test_of_two_values_for_one_pixel_the_last_stays() -> None:
    """In row-major order; the gradient of the pixel goes to both, as in PyTorch."""
    x, indices = np.array([[[1.0, 2], [3, 4]]]), np.array([[[5, 5], [5, 0]]])
    y = npconv.max_unpool2d(x, indices, 2)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 1] = 4, 3
    np.testing.assert_array_equal(y[0], expected)
    dy = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(npconv.max_unpool2d_backward(dy, indices, x.shape), [[[5, 5], [5, 0]]])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((2,), (6, 10)),
        ((2, 3), (8, 14)),
        (((3, 2), (2, 1), (1, 0)), (5, 6)),
        ((2, 2, 0, (7, 11)), (7, 11)),
        ((2, 2, 0, (5, 9)), (5, 9)),
        ((2, 2, 0, [6, 11]), (6, 11)),
    ],
)
def test_output_size(arguments: tuple, expected: tuple) -> None:
    """(n - 1) * stride - 2 * padding + kernel_size, or what is asked for, less than a stride away from it."""
    x = np.ones((2, 3, 3, 5))
    y = npconv.max_unpool2d(x, np.zeros(x.shape, int), *arguments)
    assert y.shape == (2, 3, *expected)
    assert y.sum() == 6


def test_output_size_may_be_the_whole_shape() -> None:
    x = np.ones((2, 3, 3, 5))
    assert npconv.max_unpool2d(x, np.zeros(x.shape, int), 2, output_size=(2, 3, 7, 11)).shape == (2, 3, 7, 11)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    batch=st.integers(0, 3),
    size=st.tuples(st.integers(1, 8), st.integers(1, 30)),
    kernel=pairs(3, 5),
    stride=pairs(1, 4),
    padding=pairs(0, 1),
    seed=st.integers(0, 999),
)
def test_forward_and_backward_are_the_reference(
    dtype: type, batch: int, size: tuple, kernel: tuple, stride: tuple, padding: tuple, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = ((n - 1) * s - 2 * p + k for n, s, p, k in zip(size, stride, padding, kernel, strict=True))
    arguments = kernel, stride, padding, (height, width)
    x = rng.standard_normal((batch, 3, *size)).astype(dtype)
    indices = rng.integers(0, height * width, x.shape)
    y = npconv.max_unpool2d(x, indices, *arguments)
    np.testing.assert_array_equal(y, reference.max_unpool2d(x, indices, *arguments), strict=True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = npconv.max_unpool2d_backward(dy, indices, x.shape)
    np.testing.assert_array_equal(dx, reference.max_unpool2d_backward(dy, indices, x.shape), strict=True)


def test_gradient_is_finite_differences(rng: np.random.Generator) -> None:
    x, indices = npconv.max_pool2d(rng.standard_normal((2, 2, 6, 6)), 2, return_indices=True)
    dy = rng.standard_normal((2, 2, 6, 6))
    expected = numerical_gradient(lambda: npconv.max_unpool2d(x, indices, 2), x, dy)
    dx = npconv.max_unpool2d_backward(dy, indices, x.shape)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 30, 12, 12), (1, 1, 300, 500), (2, 3, 1, 4000)])
def test_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple) -> None:
    """With values that meet on a pixel, too."""
    rng = np.random.default_rng(4)
    x, indices = rng.standard_normal(shape).astype(dtype), rng.integers(0, 4 * shape[2] * shape[3], shape)
    y = reference.max_unpool2d(x, indices, 2)
    dx = reference.max_unpool2d_backward(y, indices, shape)
    np.testing.assert_array_equal(npconv.max_unpool2d(x, indices, 2), y)
    np.testing.assert_array_equal(npconv.max_unpool2d_backward(y, indices, shape), dx)
    assert_threads_change_no_bit(
        lambda: (npconv.max_unpool2d(x, indices, 2), npconv.max_unpool2d_backward(y, indices, shape))
    )


def test_pooling_the_unpooled_gives_the_pooled(rng: np.random.Generator) -> None:
    x = rng.uniform(1, 2, (3, 4, 10, 12))
    y, indices = npconv.max_pool2d(x, 2, return_indices=True)
    again, same_indices = npconv.max_pool2d(npconv.max_unpool2d(y, indices, 2), 2, return_indices=True)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(same_indices, indices)


def test_nan_and_infinity_are_values_like_others() -> None:
    x = np.array([[[np.nan, -np.inf], [np.inf, 1]]])
    indices = np.array([[[3, 5], [8, 10]]])
    y = npconv.max_unpool2d(x, indices, 2)
    np.testing.assert_array_equal(y.flat[indices], x)
    assert (y == 0).sum() == 12


def test_layout_makes_no_difference(rng: np.random.Generator) -> None:
    x, indices = npconv.max_pool2d(rng.standard_normal((2, 3, 8, 6)), 2, return_indices=True)
    dy = rng.standard_normal((2, 3, 8, 6))

    def both(x: np.ndarray, indices: np.ndarray, dy: np.ndarray) -> tuple:
        return npconv.max_unpool2d(x, indices, 2), npconv.max_unpool2d_backward(dy, indices, x.shape)

    for dtype in DTYPES:
        assert_layout_changes_no_bit(both, x.astype(dtype), indices, dy.astype(dtype))
    assert_float16_is_computed_in_float32(both, x, indices, dy)


@pytest.mark.parametrize("window", [0, 63, 64, 127, 128, 142])
@pytest.mark.parametrize("index", [-1, 11 * 26, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_every_index_is_looked_at(window: int, index: int) -> None:
    x = np.ones((2, 3, 11, 13))  # their windows are 1x2 pixels
    indices = np.broadcast_to(np.arange(0, 11 * 26, 2).reshape(11, 13), x.shape).copy()
    assert npconv.max_unpool2d(x, indices, (1, 2)).sum() == x.size
    indices[1, 1].flat[window] = index
    with pytest.raises(ValueError, match=f"max_unpool2d: indices holds {index}, "):
        npconv.max_unpool2d(x, indices, (1, 2))
    with pytest.raises(ValueError, match=f"max_unpool2d_backward: indices holds {index}, "):
        npconv.max_unpool2d_backward(np.ones((2, 3, 11, 26)), indices, x.shape)


def test_single_image_and_empty_batch(rng: np.random.Generator) -> None:
    x, indices = npconv.max_pool2d(rng.standard_normal((3, 8, 6)), 2, return_indices=True)
    y = npconv.max_unpool2d(x, indices, 2)
    np.testing.assert_array_equal(y, npconv.max_unpool2d(x[np.newaxis], indices[np.newaxis], 2)[0], strict=True)
    dx = npconv.max_unpool2d_backward(y, indices, x.shape)
    np.testing.assert_array_equal(dx, x, strict=True)
    x, indices = np.zeros((0, 3, 4, 3), np.float32), np.zeros((0, 3, 4, 3), int)
    y = npconv.max_unpool2d(x, indices, 2)
    assert (y.shape, y.dtype) == ((0, 3, 8, 6), np.float32)
    assert npconv.max_unpool2d_backward(y, indices, x.shape).shape == x.shape
    nothing = np.zeros((1, 2, 0, 3))
    y = npconv.max_unpool2d(nothing, nothing.astype(int), 2, output_size=(1, 6))
    np.testing.assert_array_equal(y, np.zeros((1, 2, 1, 6)), strict=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: npconv.max_unpool2d(X, INDICES + 1, 2), ValueError, "max_unpool2d: indices holds 16"),
        (lambda: npconv.max_unpool2d(X, INDICES - 1, 2), ValueError, "max_unpool2d: indices holds -1"),
        (lambda: npconv.max_unpool2d(X, INDICES * 1.0, 2), TypeError, "max_unpool2d: indices are float64"),
        (lambda: npconv.max_unpool2d(X, INDICES[:, :1], 2), ValueError, "max_unpool2d: indices have shape"),
        (lambda: npconv.max_unpool2d(X.astype(int), INDICES, 2), TypeError, "max_unpool2d: x is int64"),
        (lambda: npconv.max_unpool2d(X[0, 0], INDICES[0, 0], 2), ValueError, r"max_unpool2d: x has shape \(2, 2\)"),
        (lambda: npconv.max_unpool2d(X[:, :0], INDICES[:, :0], 2), ValueError, "max_unpool2d: x has no channels"),
        (lambda: npconv.max_unpool2d(X, INDICES, 0), ValueError, "max_unpool2d: kernel_size is"),
        (lambda: npconv.max_unpool2d(X, INDICES, 2, 0), ValueError, "max_unpool2d: stride is"),
        (lambda: npconv.max_unpool2d(X, INDICES, 2, padding=-1), ValueError, "max_unpool2d: padding"),
        (lambda: npconv.max_unpool2d(X, INDICES, 2, padding=2), ValueError, "max_unpool2d: .*output"),
        (
            lambda: npconv.max_unpool2d(X, INDICES, 2, 2, 0, (2, 4)),
            ValueError,
            r"max_unpool2d: output_size is \(2, 4\)",
        ),
        (
            lambda: npconv.max_unpool2d(X, INDICES, 2, 2, 0, (4, 6)),
            ValueError,
            r"max_unpool2d: output_size is \(4, 6\)",
        ),
        (lambda: npconv.max_unpool2d(X, INDICES, 2, 2, 0, (4,)), ValueError, r"max_unpool2d: output_size is \(4,\)"),
        (lambda: npconv.max_unpool2d(X, INDICES, 2, 2, 0, 4), TypeError, "max_unpool2d: output_size is 4"),
        (
            lambda: npconv.max_unpool2d_backward(np.ones((1, 2, 3, 3)), INDICES, X.shape),
            ValueError,
            "max_unpool2d_backward: indices holds 9|max_unpool2d_backward: indices holds 15",
        ),
        (
            lambda: npconv.max_unpool2d_backward(np.ones((1, 2, 4, 4)), INDICES, (1, 2, 2, 3)),
            ValueError,
            r"max_unpool2d_backward: .*\(1, 2, 2, 3\)",
        ),
        (
            lambda: npconv.max_unpool2d_backward(np.ones((1, 3, 4, 4)), INDICES, X.shape),
            ValueError,
            r"max_unpool2d_backward: .*\(1, 3, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
