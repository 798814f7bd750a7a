"""1x1 convolution of many channels: float32 all the same where a unit for bfloat16 multiplies it."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES

import npconv
from npconv import reference

SHAPES = [  # x, output channels, stride, groups
    ((3, 32, 6, 6), 32, 1, 1),
    ((2, 33, 7, 9), 47, 1, 1),
    ((2, 100, 9, 9), 65, 1, 1),
    ((1, 256, 7, 7), 70, 1, 1),
    ((2, 64, 40, 41), 64, 1, 1),
    ((2, 130, 13, 15), 200, 2, 1),
    ((3, 96, 12, 11), 80, (1, 3), 2),
    ((2, 500, 6, 6), 40, 1, 1),
    ((1, 512, 8, 8), 160, 1, 2),
]


def arrays(x_shape: tuple, k: int, groups: int, dtype: type) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal(x_shape), rng.standard_normal((k, x_shape[1] // groups, 1, 1))
    return x.astype(dtype), weight.astype(dtype), rng.standard_normal(k).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x_shape", "k", "stride", "groups"), SHAPES)
def test_error_and_threads(dtype: type, x_shape: tuple, k: int, stride: int, groups: int) -> None:
    """The largest error is at most 5e-6 of the result's root mean square, the same bits on any number of threads."""
    x, weight, bias = arrays(x_shape, k, groups, dtype)
    exact = [a.astype(float) for a in (x, weight, bias)]
    expected = [reference.conv2d(*exact, stride=stride, groups=groups)]
    dy = np.random.default_rng(7).standard_normal(expected[0].shape).astype(dtype)
    expected += reference.conv2d_backward(dy.astype(float), *exact[:2], stride=stride, groups=groups)
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, bias, stride, groups=groups)
            results.append([y, *npconv.conv2d_backward(dy, x, weight, stride, groups=groups)])
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


@pytest.mark.parametrize("power", [-60, 60])
def test_a_power_of_two_changes_no_digit(power: int) -> None:
    """Nothing is lost far from 1 either: parts of a number that are a million times smaller than it are still there."""
    x, weight, _ = arrays((2, 64, 8, 8), 64, 1, np.float32)
    factor = np.float32(2.0**power)
    np.testing.assert_array_equal(npconv.conv2d(x * factor, weight), npconv.conv2d(x, weight) * factor)


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x, weight, bias = arrays((5, 64, 9, 9), 70, 1, np.float32)
    y = npconv.conv2d(x, weight, bias)
    x[2, 3, 4, 5], x[3, 0, 0, 1] = np.inf, np.nan
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            results.append(npconv.conv2d(x, weight, bias))
    for image in (0, 1, 4):  # the same bits as without the others
        np.testing.assert_array_equal(results[0][image], y[image])
    np.testing.assert_array_equal(results[0][2, :, 4, 5], np.copysign(np.inf, weight[:, 3, 0, 0]))
    assert np.isfinite(results[0][2]).sum() == 80 * 70
    assert np.isnan(results[0][3, :, 0, 1]).all()
    assert np.isfinite(results[0][3]).sum() == 80 * 70
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_nan_and_infinity_in_the_weight_gradient() -> None:
    x, _, _ = arrays((2, 128, 8, 8), 1, 1, np.float32)
    x[1, 5, 2, 2], x[1, 6, 2, 2] = np.inf, np.nan
    dy = np.ones((2, 128, 8, 8), np.float32)
    _, dweight, dbias = npconv.conv2d_backward(dy, x, np.zeros((128, 128, 1, 1), np.float32))
    assert np.isposinf(dweight[:, 5]).all()
    assert np.isnan(dweight[:, 6]).all()
    assert np.isfinite(dweight).sum() == 126 * 128
    np.testing.assert_array_equal(dbias, np.full(128, 128, np.float32))


def test_sums_beyond_the_range_are_infinite() -> None:
    x = np.full((1, 64, 6, 6), 3e38, np.float32)
    np.testing.assert_array_equal(npconv.conv2d(x, np.ones((32, 64, 1, 1), np.float32)), np.inf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_relu_and_pooling_behind_it(dtype: type) -> None:
    x, weight, bias = arrays((4, 64, 12, 12), 48, 1, dtype)
    y = npconv.conv2d(x, weight, bias)
    pooled = npconv.max_pool2d(np.maximum(y, 0), 2)
    np.testing.assert_array_equal(npconv.functional.conv2d_relu(x, weight, bias), np.maximum(y, 0))
    fused, _ = npconv.functional.conv2d_relu_max_pool2d(x, weight, bias, kernel_size=2)
    np.testing.assert_array_equal(fused, pooled)
