"""unfold and fold: by hand, against plain NumPy, each the transpose of the other, and the rules at the corners."""

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
    pairs,
)
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

X, COLUMNS = np.ones((2, 3, 4, 5)), np.ones((2, 12, 12))


@st.composite
def foldings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Return the shape of x, and kernel_size, dilation, padding and stride that fit it."""
    kernel, dilation, padding, stride = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(0, 4)), draw(pairs(1, 4))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, extra))
        for k, d, p, extra in zip(kernel, dilation, padding, (8, 40), strict=True)
    ]
    return (draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size), (kernel, dilation, padding, stride)


def test_3x3_by_hand() -> None:
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    columns = npconv.unfold(x, 2)
    np.testing.assert_array_equal(columns[0], [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]])
    # Every pixel is added as often as a 2x2 filter covers it.
    np.testing.assert_array_equal(npconv.fold(np.ones((1, 4, 4)), 3, 2)[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    apart = npconv.unfold(x, 2, dilation=2)
    np.testing.assert_array_equal(apart[0, :, 0], [0, 2, 6, 8])
    padded = npconv.unfold(x, 3, padding=(0, 1), stride=(1, 2))
    np.testing.assert_array_equal(padded[0], [[0, 1], [0, 2], [1, 0], [0, 4], [3, 5], [4, 0], [0, 7], [6, 8], [7, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=foldings())
def test_both_are_the_reference(dtype: type, case: tuple) -> None:
    shape, arguments = case
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(dtype)
    columns = npconv.unfold(x, *arguments)
    np.testing.assert_array_equal(columns, reference.unfold(x, *arguments), strict=True)
    dy = rng.standard_normal(columns.shape)
    image = npconv.fold(dy.astype(dtype), shape[2:], *arguments)
    assert image.dtype == dtype
    assert_close(image, reference.fold(dy, shape[2:], *arguments), 16)


@given(case=foldings())
def test_each_is_the_transpose_of_the_other(case: tuple) -> None:
    """<unfold(x), y> = <x, fold(y)>: each is the gradient of the other. Whole numbers, so the sums are exact."""
    shape, arguments = case
    rng = np.random.default_rng(2)
    x = rng.integers(-9, 9, shape).astype(float)
    columns = npconv.unfold(x, *arguments)
    y = rng.integers(-9, 9, columns.shape).astype(float)
    assert (columns * y).sum() == (x * npconv.fold(y, shape[2:], *arguments)).sum()


def test_filter_times_unfolded_is_conv2d(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((2, 3, 10, 11)), rng.standard_normal((5, 3, 4, 3))
    y = npconv.conv2d(x, weight, stride=2, padding=1)
    expected = weight.reshape(5, -1) @ npconv.unfold(x, (4, 3), padding=1, stride=2)
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=0, atol=1e-12)


def test_it_is_im2col_in_another_order(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 7, 6))
    columns = npconv.unfold(x, (3, 2), padding=1, stride=2)
    np.testing.assert_array_equal(columns.transpose(0, 2, 1).reshape(-1, 18), npconv.im2col(x, 3, 2, 2, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((5, 30, 24, 24), (5,)),
        ((2, 3, 112, 112), (3, 1, 1, 2)),
        ((1, 2, 20, 3000), ((3, 2), (1, 7), 1, (2, 1))),
        ((1, 70, 13, 13), (3, 2, 2)),
    ],
)
def test_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple, arguments: tuple) -> None:
    x = np.random.default_rng(3).standard_normal(shape)
    columns = reference.unfold(x, *arguments)

    def both() -> tuple:
        return (
            npconv.unfold(x.astype(dtype), *arguments),
            npconv.fold(columns.astype(dtype), shape[2:], *arguments),
        )

    unfolded, folded = both()
    np.testing.assert_array_equal(unfolded, columns.astype(dtype))
    assert_close(folded, reference.fold(columns, shape[2:], *arguments), 25)
    assert_threads_change_no_bit(both)


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 0, 0], x[0, 0, 3, 2] = np.nan, np.inf
    columns = npconv.unfold(x, 2, stride=2)
    expected = np.zeros((1, 4, 4))
    expected[0, 0, 0], expected[0, 2, 3] = np.nan, np.inf
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(npconv.fold(columns, 4, 2, stride=2), x)


def test_layout_makes_no_difference(rng: np.random.Generator) -> None:
    x, columns = rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((2, 12, 20))

    def both(x: np.ndarray, columns: np.ndarray) -> tuple:
        return npconv.unfold(x, 2), npconv.fold(columns, (5, 6), 2)

    for dtype in DTYPES:
        assert_layout_changes_no_bit(both, x.astype(dtype), columns.astype(dtype))
    assert_float16_is_computed_in_float32(both, x, columns)


def test_single_image_and_empty_batch(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 5, 6))
    columns = npconv.unfold(x, 2, 1, 1, 2)
    np.testing.assert_array_equal(columns, npconv.unfold(x[np.newaxis], 2, 1, 1, 2)[0], strict=True)
    image = npconv.fold(columns, (5, 6), 2, 1, 1, 2)
    np.testing.assert_array_equal(image, npconv.fold(columns[np.newaxis], (5, 6), 2, 1, 1, 2)[0], strict=True)
    columns = npconv.unfold(np.zeros((0, 3, 5, 6), np.float32), 2)
    assert (columns.shape, columns.dtype) == ((0, 12, 20), np.float32)
    assert npconv.fold(columns, (5, 6), 2).shape == (0, 3, 5, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: npconv.unfold(X.astype(int), 2), TypeError, "unfold: x is int64"),
        (lambda: npconv.unfold(X[0, 0], 2), ValueError, r"unfold: x has shape \(4, 5\)"),
        (lambda: npconv.unfold(X, 0), ValueError, "unfold: .*kernel.*0"),
        (lambda: npconv.unfold(X, 5), ValueError, r"unfold: the window spans \(5, 5\)"),
        (lambda: npconv.unfold(X, 2, 0), ValueError, r"unfold: dilation is \(0, 0\)"),
        (lambda: npconv.unfold(X, 2, 1, -1), ValueError, "unfold: padding"),
        (lambda: npconv.unfold(X, 2, 1, 0, 0), ValueError, r"unfold: stride is \(0, 0\)"),
        (lambda: npconv.unfold(X, 2.5), TypeError, "unfold: kernel_size is 2.5"),
        (lambda: npconv.unfold(X[:, :0], 2), ValueError, "unfold: .* no channels"),
        (lambda: npconv.unfold(X[:, :, :0], 2, 1, 2), ValueError, "unfold: x has an empty image"),
        (lambda: npconv.fold(COLUMNS.astype(int), (4, 5), 2), TypeError, "fold: x is int64"),
        (lambda: npconv.fold(COLUMNS[0, 0], (4, 5), 2), ValueError, r"fold: x has shape \(12,\)"),
        (lambda: npconv.fold(COLUMNS, (4, 6), 2), ValueError, r"fold: x .*12.*15"),
        (lambda: npconv.fold(COLUMNS[:, :11], (4, 5), 2), ValueError, "fold: x .*11"),
        (lambda: npconv.fold(COLUMNS[:, :0], (4, 5), 2), ValueError, "fold: x "),
        (lambda: npconv.fold(COLUMNS, (4, 5, 6), 2), ValueError, r"fold: output_size is \(4, 5, 6\)"),
        (lambda: npconv.fold(COLUMNS, (1, 5), 2), ValueError, r"fold: the window spans \(2, 2\)"),
        (lambda: npconv.fold(COLUMNS, (0, 5), 2, 1, 2), ValueError, "fold: "),
        (lambda: npconv.fold(COLUMNS, (4, 5), 2, 1, 0, 0), ValueError, r"fold: stride is \(0, 0\)"),
        # sizes that no memory holds
        (lambda: npconv.unfold(X, 2, 1, 2**31 - 1), ValueError, "unfold: the "),
        (lambda: npconv.unfold(X, 2, 1, 2**24), MemoryError, None),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str | None) -> None:
    with pytest.raises(error, match=message):
        call()
