"""max_pool2d and its gradient: by hand, against plain NumPy, and the rules at the corners."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, PoolCase, pool_cases
from hypothesis import given

import npconv
from npconv import reference

# A 5x5 image, pooled 3x3 with stride 3: without ceil_mode one window fits; with it the 2 columns and rows that are
# left over make windows of their own.
IMAGE = np.array([[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]], float)


def test_5x5_by_hand() -> None:
    x = IMAGE[np.newaxis, np.newaxis]
    np.testing.assert_array_equal(npconv.max_pool2d(x, 3)[0, 0], [[2]])
    y, indices = npconv.max_pool2d(x, 3, ceil_mode=True, return_indices=True)
    np.testing.assert_array_equal(y[0, 0], [[2, 3], [5, 1]])
    # The first of equals, row by row: 2 at (0, 1), 3 at (0, 3), 5 at (3, 0), 1 at (3, 3).
    np.testing.assert_array_equal(indices[0, 0], [[1, 3], [15, 18]])
    dx = npconv.max_pool2d_backward(np.array([[[[10.0, 20], [30, 40]]]]), indices, x.shape)
    expected = np.zeros((5, 5))
    expected[0, 1], expected[0, 3], expected[3, 0], expected[3, 3] = 10, 20, 30, 40
    np.testing.assert_array_equal(dx[0, 0], expected)


def test_4x4_in_steps_of_2_by_hand() -> None:
    x = np.array([[1, 2, 1, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 4, 0, 1]], float)[np.newaxis, np.newaxis]
    np.testing.assert_array_equal(npconv.max_pool2d(x, 2)[0, 0], [[2, 3], [4, 2]])


def test_overlapping_windows_add_their_gradients() -> None:
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1
    y, indices = npconv.max_pool2d(x, 2, stride=1, return_indices=True)
    dx = npconv.max_pool2d_backward(np.ones_like(y), indices, x.shape)
    assert dx[0, 0, 1, 1] == 4
    assert dx.sum() == 4


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=pool_cases())
def test_forward_and_backward_are_the_reference(dtype: type, case: PoolCase) -> None:
    x = case.x.astype(dtype)
    y, indices = npconv.max_pool2d(x, *case.arguments, return_indices=True)
    expected, expected_indices = reference.max_pool2d(x, *case.arguments, return_indices=True)
    assert y.dtype == dtype
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(npconv.max_pool2d(x, *case.arguments), expected)

    dy = np.arange(1, y.size + 1, dtype=dtype).reshape(y.shape)  # sums of whole numbers are exact
    dx = npconv.max_pool2d_backward(dy, indices, x.shape)
    np.testing.assert_array_equal(dx, reference.max_pool2d_backward(dy, indices, x.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((7, 30, 24, 24), (2, 2)),
        ((2, 5, 112, 112), (3, 2, 1)),
        ((1, 2, 40, 3000), (3, 2, 1)),
        ((1, 1, 2500, 3), (5, 1, 2)),
        ((3, 2, 31, 33), ((2, 3), (2, 3), 0, 1, True)),
        ((1, 3, 60, 60), (20, 7, 10)),
    ],
)
def test_larger_shapes_on_any_number_of_threads(dtype: type, shape: tuple, arguments: tuple) -> None:
    x = np.random.default_rng(2).integers(-9, 9, shape).astype(dtype)
    expected, expected_indices = reference.max_pool2d(x, *arguments, return_indices=True)
    for count in (1, 2, 5):
        with npconv.threads(count):
            y, indices = npconv.max_pool2d(x, *arguments, return_indices=True)
            dx = npconv.max_pool2d_backward(y, indices, x.shape)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(indices, expected_indices)
        np.testing.assert_array_equal(dx, reference.max_pool2d_backward(y, indices, x.shape))


def test_the_first_of_equals_and_the_last_nan() -> None:
    x = np.array([[3, 3], [3, 3]], float)[np.newaxis]
    assert npconv.max_pool2d(x, 2, return_indices=True)[1].item() == 0
    y, index = npconv.max_pool2d(np.array([[[np.nan, 5], [np.nan, 9]]]), 2, return_indices=True)
    assert np.isnan(y).all()
    assert index.item() == 2


def test_padding_is_minus_infinity() -> None:
    y, indices = npconv.max_pool2d(np.full((1, 2, 2), -np.inf), 2, stride=1, padding=1, return_indices=True)
    assert (y == -np.inf).all()
    np.testing.assert_array_equal(indices[0], [[0, 0, 1], [0, 0, 1], [2, 2, 3]])
    assert (npconv.max_pool2d(np.full((1, 1, 4, 4), -7.0), 3, padding=1) == -7).all()


def test_a_window_without_a_pixel() -> None:
    """Dilation can put all of a window into the padding: no maximum, no index, no gradient."""
    x = np.ones((1, 9, 9))
    y, indices = npconv.max_pool2d(x, 2, padding=1, dilation=10, return_indices=True)
    assert y.tolist() == [[[-np.inf]]]
    assert indices.tolist() == [[[-1]]]
    assert not npconv.max_pool2d_backward(np.ones_like(y), indices, x.shape).any()


def test_ceil_mode_counts_a_window_larger_than_the_image() -> None:
    x = np.array([[[1.0, 2], [3, 4]]])
    y, index = npconv.max_pool2d(x, 3, stride=2, ceil_mode=True, return_indices=True)
    assert y.tolist() == [[[4]]]
    assert index.tolist() == [[[3]]]
    with pytest.raises(ValueError, match="max_pool2d: the window spans"):
        npconv.max_pool2d(x, 3, stride=2)
    with pytest.raises(ValueError, match="max_pool2d: the window spans"):
        npconv.max_pool2d(x, 4, stride=2, ceil_mode=True)


def test_a_window_as_large_as_the_image(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 224, 224))
    np.testing.assert_array_equal(npconv.max_pool2d(x, 224)[:, :, 0, 0], x.max(axis=(2, 3)))


def test_single_image_and_empty_batch(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 8, 8))
    y, indices = npconv.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == (3, 4, 4)
    assert npconv.max_pool2d_backward(y, indices, x.shape).shape == x.shape
    y, indices = npconv.max_pool2d(np.zeros((0, 3, 8, 8)), 2, return_indices=True)
    assert y.shape == indices.shape == (0, 3, 4, 4)
    assert npconv.max_pool2d_backward(y, indices, (0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((4001, 4001), (1, 1), (2000, 2000)), ((4001, 3), (700, 2), (1999, 1)), ((2, 5001), (1, 3), (1, 2500))],
)
def test_kernels_much_larger_than_the_image(kernel: tuple, stride: tuple, padding: tuple) -> None:
    """They cost no more than small ones: taps that meet no pixel are left out."""
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6))
    y, indices = npconv.max_pool2d(x, kernel, stride, padding, return_indices=True)
    assert y.shape[2:] == tuple(
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip((5, 6), padding, kernel, stride, strict=True)
    )
    for place in np.ndindex(y.shape[2:]):
        start = [o * s - p for o, s, p in zip(place, stride, padding, strict=True)]
        rows, columns = (slice(max(begin, 0), begin + k) for begin, k in zip(start, kernel, strict=True))
        np.testing.assert_array_equal(y[(..., *place)], x[:, :, rows, columns].max(axis=(2, 3)))
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(2, 3, 30), indices.reshape(2, 3, -1), 2), y.reshape(2, 3, -1)
    )
