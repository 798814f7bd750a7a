"""Convolutions of many channels that a unit for bfloat16 multiplies, where the CPU has one: float32 all the same."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES

import npconv
from npconv import reference

# x, weight, stride, padding, groups
SHAPES = [
    ((3, 32, 6, 6), (32, 32, 1, 1), 1, 0, 1),
    ((2, 33, 7, 9), (47, 33, 1, 1), 1, 0, 1),
    ((2, 100, 9, 9), (65, 100, 1, 1), 1, 0, 1),
    ((1, 256, 7, 7), (70, 256, 1, 1), 1, 0, 1),
    ((2, 64, 40, 41), (64, 64, 1, 1), 1, 0, 1),
    ((2, 130, 13, 15), (200, 130, 1, 1), 2, 0, 1),
    ((3, 96, 12, 11), (80, 48, 1, 1), (1, 3), 0, 2),
    ((2, 500, 6, 6), (40, 500, 1, 1), 1, 0, 1),
    ((1, 512, 8, 8), (160, 256, 1, 1), 1, 0, 2),
    ((2, 32, 30, 29), (40, 32, 3, 3), 2, 1, 1),
    ((3, 43, 13, 12), (33, 43, 3, 3), 1, 1, 1),
    ((1, 160, 27, 32), (48, 160, 3, 3), 2, (0, 2), 1),
    ((2, 64, 17, 18), (64, 32, 3, 5), (2, 1), (1, 2), 2),
    ((2, 21, 14, 14), (64, 21, 3, 3), 1, ((0, 2), (1, 0)), 1),
    ((1, 300, 8, 16), (32, 300, 2, 2), 1, 0, 1),
    ((5, 64, 6, 6), (96, 64, 1, 5), 1, (0, 2), 1),
    ((2, 32, 12, 13), (32, 32, 5, 1), 1, (2, 0), 1),
    ((8, 64, 14, 14), (48, 64, 3, 3), 2, 1, 1),
    ((9, 32, 16, 8), (32, 32, 2, 2), 2, 0, 1),
    ((3, 40, 20, 16), (64, 40, 4, 4), (3, 2), (2, 1), 1),
    ((5, 128, 7, 25), (80, 64, 3, 4), (1, 3), (0, 1), 2),
    ((9, 64, 6, 14), (40, 64, 3, 3), 3, 0, 1),
    ((2, 64, 90, 14), (33, 64, 3, 3), 2, 1, 1),
]


def arrays(x_shape: tuple, weight_shape: tuple, dtype: type) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    x, weight, bias = (rng.standard_normal(shape) for shape in (x_shape, weight_shape, weight_shape[:1]))
    return x.astype(dtype), weight.astype(dtype), bias.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x_shape", "weight_shape", "stride", "padding", "groups"), SHAPES)
def test_error_and_threads(
    dtype: type, x_shape: tuple, weight_shape: tuple, stride: int | tuple, padding: int | tuple, groups: int
) -> None:
    """The largest error is at most 5e-6 of the result's root mean square, the same bits on any number of threads."""
    x, weight, bias = arrays(x_shape, weight_shape, dtype)
    exact = [a.astype(float) for a in (x, weight, bias)]
    places = {"stride": stride, "padding": padding, "groups": groups}
    expected = [reference.conv2d(*exact, **places)]
    dy = np.random.default_rng(7).standard_normal(expected[0].shape).astype(dtype)
    expected += reference.conv2d_backward(dy.astype(float), *exact[:2], **places)
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, bias, **places, algorithm="gemm")
            results.append([y, *npconv.conv2d_backward(dy, x, weight, **places, algorithm="gemm")])
    for actual, wanted in zip(results[0], expected, strict=True):
        assert actual.dtype == dtype
        largest = 5e-6 if dtype == np.float32 else 1e-13
        assert np.abs(actual - wanted).max() <= largest * np.sqrt(np.mean(wanted**2))
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]


def test_whole_numbers_are_exact() -> None:
    rng = np.random.default_rng(6)
    x, weight = rng.integers(-999, 1000, (2, 128, 9, 9)), rng.integers(-99, 100, (128, 128, 1, 1))
    y = npconv.conv2d(x.astype(np.float32), weight.astype(np.float32))
    np.testing.assert_array_equal(y, np.einsum("nchw,kc->nkhw", x, weight[:, :, 0, 0]))
    dweight = npconv.conv2d_backward(y := np.sign(y), x.astype(np.float32), weight.astype(np.float32))[1]
    np.testing.assert_array_equal(dweight[:, :, 0, 0], np.einsum("nkhw,nchw->kc", y, x))


@pytest.mark.parametrize("weight_shape", [(64, 64, 1, 1), (64, 64, 3, 3)])
@pytest.mark.parametrize("power", [-60, 60])
def test_a_power_of_two_changes_no_digit(power: int, weight_shape: tuple) -> None:
    """Nothing is lost far from 1 either: parts of a number that are a million times smaller than it are still there."""
    x, weight, _ = arrays((2, 64, 8, 8), weight_shape, np.float32)
    factor = np.float32(2.0**power)
    y = npconv.conv2d(x, weight, algorithm="gemm")
    np.testing.assert_array_equal(npconv.conv2d(x * factor, weight, algorithm="gemm"), y * factor)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_nan_and_infinity_stay_where_they_belong(kernel: int, stride: int) -> None:
    """In the windows that hold them, and no other image changes a bit."""
    x, weight, bias = arrays((5, 64, 27, 27), (70, 64, kernel, kernel), np.float32)
    x[2, 3, 0, 0], x[3, 0, 0, 0] = np.inf, np.nan
    y = npconv.conv2d(np.nan_to_num(x, posinf=0), weight, bias, stride, algorithm="gemm")
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            results.append(npconv.conv2d(x, weight, bias, stride, algorithm="gemm"))
    np.testing.assert_array_equal(results[0][[0, 1, 4]], y[[0, 1, 4]])
    np.testing.assert_array_equal(results[0][2, :, 0, 0], np.copysign(np.inf, weight[:, 3, 0, 0]))
    assert np.isnan(results[0][3, :, 0, 0]).all()
    assert np.isfinite(results[0]).sum() == y.size - 2 * 70
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_nan_and_infinity_in_the_weight_gradient() -> None:
    x, _, _ = arrays((2, 128, 8, 8), (1, 1, 1, 1), np.float32)
    x[1, 5, 2, 2], x[1, 6, 2, 2] = np.inf, np.nan
    dy = np.ones((2, 128, 8, 8), np.float32)
    _, dweight, dbias = npconv.conv2d_backward(dy, x, np.zeros((128, 128, 1, 1), np.float32))
    assert np.isposinf(dweight[:, 5]).all()
    assert np.isnan(dweight[:, 6]).all()
    assert np.isfinite(dweight).sum() == 126 * 128
    np.testing.assert_array_equal(dbias, np.full(128, 128, np.float32))


def test_sums_beyond_the_range_are_infinite() -> None:
    x = np.full((1, 64, 16, 16), 3e38, np.float32)
    for size in (1, 2):
        np.testing.assert_array_equal(
            npconv.conv2d(x, np.ones((32, 64, size, size), np.float32), algorithm="gemm"), np.inf
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1), ((1, 7), 1, (0, 3))])
def test_with_relu_and_pooling_behind_it(dtype: type, kernel: int | tuple, stride: int, padding: int | tuple) -> None:
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, weight, bias = arrays((4, 64, 24, 32), (48, 64, *kernel), dtype)
    y = npconv.conv2d(x, weight, bias, stride, padding)
    pooled = npconv.max_pool2d(np.maximum(y, 0), 2)
    np.testing.assert_array_equal(npconv.functional.conv2d_relu(x, weight, bias, stride, padding), np.maximum(y, 0))
    fused, _ = npconv.functional.conv2d_relu_max_pool2d(x, weight, bias, stride, padding, kernel_size=2)
    np.testing.assert_array_equal(fused, pooled)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2)])
@pytest.mark.parametrize(("of_x", "of_weight"), [(1e-33, 1), (1e-37, 1), (1, 1e-33), (1e-36, 1e10), (1e-20, 1e-14)])
def test_small_numbers_are_as_accurate(of_x: float, of_weight: float, kernel: int, stride: int) -> None:
    """Their parts would be subnormal, which the unit takes for zero."""
    x, weight, _ = arrays((3, 64, 14, 14), (64, 64, kernel, kernel), np.float32)
    x, weight = (x * of_x).astype(np.float32), (weight * of_weight).astype(np.float32)
    dy = (of_x * np.random.default_rng(7).standard_normal(reference.conv2d(x, weight, None, stride).shape)).astype("f4")
    exact = [a.astype(float) for a in (dy, x / of_x, weight)]
    expected = [reference.conv2d(x.astype(float), weight.astype(float), None, stride)]
    expected += reference.conv2d_backward(*exact, stride)
    actual = [npconv.conv2d(x, weight, None, stride, algorithm="gemm")]
    actual += npconv.conv2d_backward(dy, exact[1].astype(np.float32), weight, stride, algorithm="gemm")
    for result, wanted in zip(actual, expected, strict=True):
        assert np.abs(result - wanted).max() <= 5e-6 * np.sqrt(np.mean(wanted**2))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2)])
def test_images_of_small_numbers_change_no_other(kernel: int, stride: int) -> None:
    x, weight, bias = arrays((5, 64, 27, 27), (64, 64, kernel, kernel), np.float32)
    y = npconv.conv2d(x, weight, bias, stride, algorithm="gemm")
    x[1] *= 1e-33
    x[3] = 0
    x[4, :, :14] *= 1e-33
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            results.append(npconv.conv2d(x, weight, bias, stride, algorithm="gemm"))
    np.testing.assert_array_equal(results[0][[0, 2]], y[[0, 2]])
    np.testing.assert_array_equal(results[0][3], np.broadcast_to(bias[:, None, None], y[3].shape))
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
