"""Strided convolution of few channels, as one of stride 1 over every stride-th pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, assert_close, assert_fusing_changes_no_bit, assert_threads_change_no_bit, pairs
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference


@st.composite
def convs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, Any, int]:
    stride = draw(st.integers(2, 5))
    kernel = draw(st.integers(stride + 1, 4 * stride))  # phases of 2 to 4 taps
    padding = draw(st.tuples(pairs(0, kernel), pairs(0, kernel)))
    size = [max(1, kernel - sum(p)) + draw(st.integers(0, 25)) for p in padding]
    groups = draw(st.integers(1, 2))
    least = -(-12 // stride**2)
    c, k = draw(st.integers(least, least + 3)), draw(st.integers(16, 40))  # of a group
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(0, 3)), groups * c, *size))
    weight = rng.standard_normal((groups * k, c, kernel, kernel))
    return x, weight, rng.standard_normal(groups * k), stride, padding, groups


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=convs())
def test_forward_and_gradients_are_the_reference(dtype: type, case: tuple) -> None:
    *arrays, stride, padding, groups = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    y = npconv.conv2d(x, weight, bias, stride, padding, 1, groups)
    reduction = int(np.prod(weight.shape[1:]))
    assert_close(y, reference.conv2d(*arrays, stride, padding, 1, groups), 30 * reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, stride, padding, 1, groups)
    expected = reference.conv2d_backward(dy, *arrays[:2], stride, padding, 1, groups)
    for a, e, terms in zip(gradients, expected, (reduction, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


FIRST_LAYERS = [  # x, weight, stride, padding
    ((3, 3, 127, 131), (64, 3, 11, 11), 4, 2),  # AlexNet's
    ((2, 3, 63, 65), (48, 3, 7, 7), 2, 3),  # ResNet's
    ((5, 4, 44, 44), (32, 4, 8, 8), 4, 0),  # of a player of video games
    ((2, 10, 40, 37), (33, 5, 9, 9), 3, (4, 3)),  # two groups; 45 channels: 32 and 13 at a time
    ((2, 70, 30, 31), (40, 70, 7, 7), 2, 3),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "stride", "padding"), FIRST_LAYERS)
def test_first_layers_with_any_number_of_threads(
    dtype: type, shape: tuple, weight_shape: tuple, stride: int, padding: Any
) -> None:
    rng = np.random.default_rng(5)
    groups = shape[1] // weight_shape[1]
    weight_shape = (groups * weight_shape[0], *weight_shape[1:])
    arrays = [rng.standard_normal(s) for s in (shape, weight_shape, weight_shape[:1])]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected_y = reference.conv2d(*arrays, stride, padding, 1, groups)
    dy = rng.standard_normal(expected_y.shape)
    expected = expected_y, *reference.conv2d_backward(dy, *arrays[:2], stride, padding, 1, groups)

    def call() -> list[np.ndarray]:
        y = npconv.conv2d(x, weight, bias, stride, padding, 1, groups)
        return [y, *npconv.conv2d_backward(dy.astype(dtype), x, weight, stride, padding, 1, groups)]

    results = assert_threads_change_no_bit(call)
    for a, e in zip(results, expected, strict=True):
        assert_close(a, e, 30 * max(dy[:, 0].size, int(np.prod(weight_shape[1:]))))
    # Each image is what it is alone.
    alone = npconv.conv2d(x[1:2], weight, bias, stride, padding, 1, groups)
    assert alone.tobytes() == results[0][1:2].tobytes()


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(11, 4, 3), (7, 2, 3), (7, 2, 7), (9, 3, 3), (10, 5, 1)])
def test_it_does_run_within_the_documented_bound(kernel: int, stride: int, channels: int) -> None:
    """Its bits are not those of the matrix product, and its largest error is as small as that of other such forms."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, channels, 64, 64)).astype(np.float32)
    weight = rng.standard_normal((64, channels, kernel, kernel)).astype(np.float32)
    y = npconv.conv2d(x, weight, None, stride, 2)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    actual = [y, *npconv.conv2d_backward(dy, x, weight, stride, 2)[:2]]
    gemm = [npconv.conv2d(x, weight, None, stride, 2, algorithm="gemm")]
    gemm += npconv.conv2d_backward(dy, x, weight, stride, 2, algorithm="gemm")[:2]
    wide = [a.astype(np.float64) for a in (x, weight, dy)]
    expected = [npconv.conv2d(*wide[:2], None, stride, 2, algorithm="gemm")]
    expected += npconv.conv2d_backward(wide[2], *wide[:2], stride, 2, algorithm="gemm")[:2]
    for a, g, e in zip(actual, gemm, expected, strict=True):
        assert a.tobytes() != g.tobytes()
        assert np.abs(a - e).max() / np.sqrt(np.mean(e**2)) < 5e-5


def test_pixels_that_no_window_meets_do_not_matter() -> None:
    """Nor does what lies there; and their gradient is 0."""
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((2, 3, 34, 37)), rng.standard_normal((32, 3, 11, 11))
    outside = np.ones(x.shape, bool)
    outside[:, :, :31, :35] = False  # 6 and 7 windows
    y = npconv.conv2d(np.where(outside, 0, x), weight, None, 4)
    assert npconv.conv2d(np.where(outside, np.nan, x), weight, None, 4).tobytes() == y.tobytes()
    dx, dweight, _ = npconv.conv2d_backward(y, np.where(outside, np.inf, x), weight, 4)
    assert np.isfinite(dweight).all()
    assert (dx[outside] == 0).all()
    assert (dx[~outside] != 0).all()


def test_transposed_convolution_with_a_bias() -> None:
    rng = np.random.default_rng(10)
    x, weight, bias = (rng.standard_normal(s) for s in ((3, 64, 17, 18), (64, 3, 7, 7), (3,)))
    expected = reference.conv_transpose2d(x, weight, bias, 2, 3, 1)
    results = []
    for count in (1, 3):
        with npconv.threads(count):
            results.append(npconv.conv_transpose2d(x, weight, bias, 2, 3, 1))
    assert_close(results[0], expected, 30 * 64 * 49)
    assert results[0].tobytes() == results[1].tobytes()
    # More pixels than the windows reach: there is the bias alone.
    wide = npconv.conv_transpose2d(x, weight, bias, 8, 0, 7)
    assert_close(wide, reference.conv_transpose2d(x, weight, bias, 8, 0, 7), 30 * 64 * 49)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (2, 1)])
def test_fused_with_relu_and_pooling_is_the_same(dtype: type, window: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in ((5, 3, 63, 67), (40, 3, 11, 11), (40,)))
    assert_fusing_changes_no_bit((x, weight, bias), window, stride=4, padding=2)
