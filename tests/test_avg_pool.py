"""avg_pool2d, adaptive_avg_pool2d and their gradients: by hand, against plain NumPy, and the rules at the corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    PoolCase,
    assert_close,
    assert_float16_is_computed_in_float32,
    assert_layout_changes_no_bit,
    assert_threads_change_no_bit,
    avg_pool_cases,
    numerical_gradient,
)
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

X = np.ones((1, 2, 4, 4))


def test_4x4_in_steps_of_2_by_hand() -> None:
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(npconv.avg_pool2d(x, 2)[0, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(npconv.avg_pool2d(x, (1, 4))[0, 0], [[1.5], [5.5], [9.5], [13.5]])
    dx = npconv.avg_pool2d_backward(np.array([[[[4.0, 8], [12, 16]]]]), x.shape, 2)
    np.testing.assert_array_equal(dx[0, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_overlapping_windows_add_their_gradients() -> None:
    dx = npconv.avg_pool2d_backward(np.full((1, 1, 2, 2), 4.0), (1, 1, 3, 3), 2, stride=1)
    np.testing.assert_array_equal(dx[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_what_counts_in_the_divisor() -> None:
    """Of 4 ones, 3 wide windows hold 2, 3 and (with ceil_mode) 1; of the last one, only 2 pixels lie in the padding."""
    options: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
    share = np.array([2 / 3, 1])
    np.testing.assert_allclose(npconv.avg_pool2d(X, **options)[0, 0], np.outer(share, share), rtol=1e-15)
    share = np.array([2 / 3, 1, 1 / 2])
    y = npconv.avg_pool2d(X, **options, ceil_mode=True)
    np.testing.assert_allclose(y[0, 0], np.outer(share, share), rtol=1e-15)
    y = npconv.avg_pool2d(X, **options, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(y, np.ones((1, 2, 3, 3)), rtol=1e-15)
    pixels = np.array([2, 3, 1])
    for count_include_pad in (True, False):
        y = npconv.avg_pool2d(X, **options, ceil_mode=True, count_include_pad=count_include_pad, divisor_override=-2)
        np.testing.assert_array_equal(y[0, 1], np.outer(pixels, pixels) / -2)


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=avg_pool_cases())
def test_forward_and_backward_are_the_reference(dtype: type, case: PoolCase) -> None:
    y = npconv.avg_pool2d(case.x.astype(dtype), *case.arguments)
    expected = reference.avg_pool2d(case.x, *case.arguments)
    assert y.dtype == dtype
    assert_close(y, expected, int(np.prod(case.arguments[0])))
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = npconv.avg_pool2d_backward(dy.astype(dtype), case.x.shape, *case.arguments)
    assert dx.dtype == dtype
    assert_close(dx, reference.avg_pool2d_backward(dy, case.x.shape, *case.arguments), 36)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 60)),
    size=st.tuples(st.integers(1, 25), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_adaptive_is_the_reference(dtype: type, shape: tuple, size: tuple, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape[:2] + size)
    y, dx = (
        npconv.adaptive_avg_pool2d(x.astype(dtype), size),
        npconv.adaptive_avg_pool2d_backward(dy.astype(dtype), shape),
    )
    assert y.dtype == dx.dtype == dtype
    assert_close(y, reference.adaptive_avg_pool2d(x, size), 1200)
    assert_close(dx, reference.adaptive_avg_pool2d_backward(dy, shape), 1200)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pixels", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 49, 1024, 1025])
@pytest.mark.parametrize("planes", [1, 15, 16, 17, 40])
def test_whole_planes(dtype: type, pixels: int, planes: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((planes, 1, pixels))
    assert_close(npconv.adaptive_avg_pool2d(x.astype(dtype), 1)[:, 0, 0], x.mean((1, 2)), pixels)
    x[planes // 2, 0, pixels // 2] = np.nan  # in one plane, and in one plane only
    x[-1, 0, 0] = np.inf
    y = npconv.adaptive_avg_pool2d(x.astype(dtype), 1)[:, 0, 0]
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x).any((1, 2)))
    np.testing.assert_array_equal(y == np.inf, np.isinf(x).any((1, 2)) & ~np.isnan(x).any((1, 2)))


def test_adaptive_by_hand() -> None:
    """Of five pixels two windows of three, which share the middle; of two pixels three windows."""
    x = np.arange(5.0).reshape(1, 1, 5)
    np.testing.assert_array_equal(npconv.adaptive_avg_pool2d(x, (1, 2)), [[[1, 3]]])
    dx = npconv.adaptive_avg_pool2d_backward(np.array([[[3.0, 6]]]), x.shape)
    np.testing.assert_array_equal(dx, [[[1, 1, 3, 2, 2]]])
    np.testing.assert_array_equal(npconv.adaptive_avg_pool2d(x[..., :2], (1, 3)), [[[0, 0.5, 1]]])


def test_adaptive_output_sizes(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 6, 8))
    np.testing.assert_allclose(npconv.adaptive_avg_pool2d(x, 1)[..., 0, 0], x.mean(axis=(2, 3)), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(npconv.adaptive_avg_pool2d(x, (None, None)), x)
    np.testing.assert_allclose(npconv.adaptive_avg_pool2d(x, (3, None)), npconv.avg_pool2d(x, (2, 1)), rtol=1e-15)
    np.testing.assert_allclose(npconv.adaptive_avg_pool2d(x, (2, 4)), npconv.avg_pool2d(x, (3, 2)), rtol=1e-15)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 2, 6, 7), (3, 2, 1, True)),
        ((1, 2, 5, 6), ((2, 3), 1, (1, 0), False, False)),
        ((2, 1, 5, 5), (2, 2, 1, True, True, 3)),
    ],
)
def test_gradient_is_finite_differences(rng: np.random.Generator, shape: tuple, arguments: tuple) -> None:
    x = rng.standard_normal(shape)
    dy = rng.standard_normal(npconv.avg_pool2d(x, *arguments).shape)
    expected = numerical_gradient(lambda: npconv.avg_pool2d(x, *arguments), x, dy)
    np.testing.assert_allclose(npconv.avg_pool2d_backward(dy, shape, *arguments), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 3), (7, 4), (1, 9)])
def test_adaptive_gradient_is_finite_differences(rng: np.random.Generator, size: tuple) -> None:
    x, dy = rng.standard_normal((1, 2, 5, 6)), rng.standard_normal((1, 2, *size))
    expected = numerical_gradient(lambda: npconv.adaptive_avg_pool2d(x, size), x, dy)
    np.testing.assert_allclose(npconv.adaptive_avg_pool2d_backward(dy, x.shape), expected, rtol=0, atol=1e-12)


# Long and short rows, windows that overlap and that leave gaps, windows as large as the image.
LARGE = [
    ((7, 30, 24, 24), (2,)),
    ((2, 5, 112, 112), (3, 2, 1)),
    ((2, 3, 57, 61), (3, 1, 1, True, False)),
    ((1, 2, 40, 3000), (3, 2, 1, True)),
    ((1, 1, 2500, 3), ((5, 1), (1, 2), (2, 0))),
    ((3, 2, 31, 33), ((2, 3), (4, 5), 1, True)),
    ((9, 65, 7, 7), (7,)),
    ((1, 3, 60, 60), (20, 7, 10)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "arguments"), LARGE)
def test_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple, arguments: tuple) -> None:
    x = np.random.default_rng(2).standard_normal(shape)
    y = reference.avg_pool2d(x, *arguments)
    assert_close(npconv.avg_pool2d(x.astype(dtype), *arguments), y, 400)
    dx = npconv.avg_pool2d_backward(y.astype(dtype), shape, *arguments)
    assert_close(dx, reference.avg_pool2d_backward(y, shape, *arguments), 400)

    def both() -> tuple:
        y = npconv.avg_pool2d(x.astype(dtype), *arguments)
        return y, npconv.avg_pool2d_backward(y, shape, *arguments)

    assert_threads_change_no_bit(both)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 6, 7, (13, 100), (3, 224)])
def test_adaptive_larger_shapes_on_any_number_of_threads(dtype: type, size: Any) -> None:
    x = np.random.default_rng(2).standard_normal((3, 17, 56, 75))
    y = reference.adaptive_avg_pool2d(x, size)
    dx = reference.adaptive_avg_pool2d_backward(y, x.shape)

    def both() -> tuple:
        y = npconv.adaptive_avg_pool2d(x.astype(dtype), size)
        return y, npconv.adaptive_avg_pool2d_backward(y, x.shape)

    for a, e in zip(both(), (y, dx), strict=True):
        assert_close(a, e, 4200)
    assert_threads_change_no_bit(both)


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x = np.zeros((1, 1, 6, 40))
    x[0, 0, 0, 3], x[0, 0, 5, 39] = np.nan, np.inf
    expected = np.zeros((3, 20))
    expected[0, 1], expected[2, 19] = np.nan, np.inf
    np.testing.assert_array_equal(npconv.avg_pool2d(x, 2)[0, 0], expected)
    np.testing.assert_array_equal(npconv.adaptive_avg_pool2d(x, (3, 20))[0, 0], expected)
    dx = npconv.avg_pool2d_backward(expected[np.newaxis], (1, 6, 40), 2)
    np.testing.assert_array_equal(dx[0], expected.repeat(2, axis=0).repeat(2, axis=1))


def test_layout_makes_no_difference(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((2, 3, 5, 4))

    def everything(x: np.ndarray, dy: np.ndarray) -> tuple:
        return (
            npconv.avg_pool2d(x, 3, 2, 1),
            npconv.avg_pool2d_backward(dy, x.shape, 3, 2, 1),
            npconv.adaptive_avg_pool2d(x, (4, 5)),
            npconv.adaptive_avg_pool2d_backward(dy, x.shape),
        )

    for dtype in DTYPES:
        assert_layout_changes_no_bit(everything, x.astype(dtype), dy.astype(dtype))
    assert_float16_is_computed_in_float32(everything, x, dy)


def test_single_image_and_empty_batch(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 8, 6))
    y = npconv.avg_pool2d(x, 2)
    np.testing.assert_array_equal(y, npconv.avg_pool2d(x[np.newaxis], 2)[0], strict=True)
    dx = npconv.avg_pool2d_backward(y, x.shape, 2)
    np.testing.assert_array_equal(dx, npconv.avg_pool2d_backward(y[np.newaxis], (1, 3, 8, 6), 2)[0], strict=True)
    y = npconv.adaptive_avg_pool2d(x, (5, 4))
    np.testing.assert_array_equal(y, npconv.adaptive_avg_pool2d(x[np.newaxis], (5, 4))[0], strict=True)
    dx = npconv.adaptive_avg_pool2d_backward(y, x.shape)
    expected = npconv.adaptive_avg_pool2d_backward(y[np.newaxis], (1, 3, 8, 6))[0]
    np.testing.assert_array_equal(dx, expected, strict=True)

    empty = np.zeros((0, 3, 8, 6), np.float32)
    y = npconv.avg_pool2d(empty, 2)
    assert (y.shape, y.dtype) == ((0, 3, 4, 3), np.float32)
    assert npconv.avg_pool2d_backward(y, empty.shape, 2).shape == empty.shape
    y = npconv.adaptive_avg_pool2d(empty, (5, 4))
    assert (y.shape, y.dtype) == ((0, 3, 5, 4), np.float32)
    assert npconv.adaptive_avg_pool2d_backward(y, empty.shape).shape == empty.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: npconv.avg_pool2d(X.astype(int), 2), TypeError, "avg_pool2d: x is int64"),
        (lambda: npconv.avg_pool2d(X[0, 0], 2), ValueError, r"avg_pool2d: x has shape \(4, 4\)"),
        (lambda: npconv.avg_pool2d(X[:, :0], 2), ValueError, "avg_pool2d: x has no channels"),
        (lambda: npconv.avg_pool2d(X[..., :0], 2), ValueError, "avg_pool2d: x has an empty image"),
        (lambda: npconv.avg_pool2d(X, 5), ValueError, r"avg_pool2d: the window spans \(5, 5\)"),
        (lambda: npconv.avg_pool2d(X, 0), ValueError, r"avg_pool2d: kernel_size is \(0, 0\)"),
        (lambda: npconv.avg_pool2d(X, 2, 0), ValueError, r"avg_pool2d: stride is \(0, 0\)"),
        (lambda: npconv.avg_pool2d(X, 2, 1.5), TypeError, "avg_pool2d: stride is 1.5"),
        (lambda: npconv.avg_pool2d(X, 3, padding=2), ValueError, r"avg_pool2d: padding is \(2, 2\)"),
        (lambda: npconv.avg_pool2d(X, 3, padding=-1), ValueError, "avg_pool2d: padding"),
        (lambda: npconv.avg_pool2d(X, 2, divisor_override=0), ValueError, "avg_pool2d: divisor_override is 0"),
        (lambda: npconv.avg_pool2d(X, 2, divisor_override="x"), TypeError, "avg_pool2d: divisor_override is 'x'"),
        (lambda: npconv.avg_pool2d_backward(X, (1, 2, 4, 4), 2), ValueError, "avg_pool2d_backward: dy has shape"),
        (lambda: npconv.avg_pool2d_backward(X, (2, 8, 8), 2), ValueError, "avg_pool2d_backward: .*dy"),
        (lambda: npconv.avg_pool2d_backward(X, 8, 2), TypeError, "avg_pool2d_backward: input_shape is 8"),
        (lambda: npconv.adaptive_avg_pool2d(X.astype(int), 2), TypeError, "adaptive_avg_pool2d: x is int64"),
        (lambda: npconv.adaptive_avg_pool2d(X, 0), ValueError, "adaptive_avg_pool2d: output_size is .*0"),
        (lambda: npconv.adaptive_avg_pool2d(X, (2, -1)), ValueError, "adaptive_avg_pool2d: output_size is .*-1"),
        (lambda: npconv.adaptive_avg_pool2d(X, (1, 2, 3)), ValueError, "adaptive_avg_pool2d: output_size is .*3"),
        (lambda: npconv.adaptive_avg_pool2d(X, 2.5), TypeError, "adaptive_avg_pool2d: output_size is 2.5"),
        (lambda: npconv.adaptive_avg_pool2d(X[:, :, :0], 2), ValueError, r"adaptive_avg_pool2d: .*image .*\(0, 4\)"),
        (
            lambda: npconv.adaptive_avg_pool2d_backward(X, (1, 3, 4, 4)),
            ValueError,
            r"adaptive_avg_pool2d_backward: input_shape is \(1, 3, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
