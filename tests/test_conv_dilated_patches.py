"""Convolution with dilation, and of windows that tile the image: what meets a tap is every d-th pixel."""

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
def dilated(draw: st.DrawFn) -> tuple[list[np.ndarray], dict[str, Any]]:
    dilation = draw(st.tuples(st.integers(1, 4), st.integers(2, 7)))
    kernel = draw(st.sampled_from([(2, 2), (3, 3), (3, 3), (4, 4), (5, 5), (1, 3), (3, 2)]))
    size = [draw(st.integers(d * (k - 1) + 1, d * (k + 5))) for d, k in zip(dilation, kernel, strict=True)]
    groups = draw(st.integers(1, 2))
    c, k = draw(st.integers(12, 35)), draw(st.integers(16, 35))  # of a group
    shapes = (draw(st.integers(0, 2)), groups * c, *size), (groups * k, c, *kernel), (groups * k,)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    padding = draw(st.tuples(pairs(0, 7), pairs(0, 7)))
    return [rng.standard_normal(s) for s in shapes], {"padding": padding, "dilation": dilation, "groups": groups}


@st.composite
def tiled(draw: st.DrawFn) -> tuple[list[np.ndarray], dict[str, Any]]:
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(2, 17)))
    size = [k * draw(st.integers(1, 40 // k + 1)) for k in kernel]
    groups = draw(st.integers(1, 2))
    c, k = draw(st.integers(32 // (kernel[0] * kernel[1]), 20)) + 1, draw(st.integers(31, 70))  # of a group
    shapes = (draw(st.integers(0, 3)), groups * c, *size), (groups * k, c, *kernel), (groups * k,)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [rng.standard_normal(s) for s in shapes], {"stride": kernel, "groups": groups}


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=st.one_of(dilated(), tiled()))
def test_forward_and_gradients_are_the_reference(dtype: type, case: tuple[list[np.ndarray], dict[str, Any]]) -> None:
    arrays, places = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    y = npconv.conv2d(x, weight, bias, **places)
    reduction = int(np.prod(weight.shape[1:]))
    assert_close(y, reference.conv2d(*arrays, **places), 30 * reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, **places)
    expected = reference.conv2d_backward(dy, *arrays[:2], **places)
    for a, e, terms in zip(gradients, expected, (weight.size, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "kernel", "places"),
    [
        ((11, 40, 57, 50), (3, 3), {"padding": 2, "dilation": 2}),
        ((2, 70, 33, 31), (3, 3), {"padding": (3, 4), "dilation": (3, 4)}),
        ((2, 70, 33, 31), (3, 3), {"padding": 12, "dilation": (24, 12)}),  # most phases have no row, or one
        ((1, 64, 45, 60), (3, 3), {"padding": 32, "dilation": 32}),
        ((3, 33, 29, 20), (5, 5), {"padding": 3, "dilation": 2}),
        ((2, 64, 20, 41), (1, 3), {"padding": (0, 5), "dilation": (1, 5)}),
        ((70, 3, 112, 96), (16, 16), {"stride": 16}),  # more images than are dealt to channels at a time
        ((3, 70, 30, 26), (2, 2), {"stride": 2}),
        ((2, 12, 30, 26), (5, 2), {"stride": (5, 2)}),
        ((2, 4, 36, 37), (9, 9), {"stride": 9}),  # a column is in no window
    ],
)
def test_any_number_of_threads_gives_the_same_bits(
    dtype: type, shape: tuple, kernel: tuple, places: dict[str, Any]
) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s) for s in (shape, (96, shape[1], *kernel), (96,))]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected_y = reference.conv2d(*arrays, **places)
    dy = rng.standard_normal(expected_y.shape)
    expected = expected_y, *reference.conv2d_backward(dy, *arrays[:2], **places)

    def call() -> list[np.ndarray]:
        y = npconv.conv2d(x, weight, bias, **places)
        return [y, *npconv.conv2d_backward(dy.astype(dtype), x, weight, **places)]

    results = assert_threads_change_no_bit(call)
    for a, e in zip(results, expected, strict=True):
        assert_close(a, e, 30 * max(dy[:, 0].size, int(np.prod(weight.shape[1:]))))
    # Each image is what it is alone.
    assert npconv.conv2d(x[-1:], weight, bias, **places).tobytes() == results[0][-1:].tobytes()


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("places", [{"dilation": 2}, {"stride": 3}])
def test_each_gradient_alone(places: dict[str, Any], wanted: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal((2, 40, 24, 24)), rng.standard_normal((36, 40, 3, 3))
    dy = rng.standard_normal(npconv.conv2d(x, weight, **places).shape)
    every = npconv.conv2d_backward(dy, x, weight, **places)
    for one, other, is_wanted in zip(
        npconv.conv2d_backward(dy, x, weight, **places, needs=wanted), every, wanted, strict=True
    ):
        if is_wanted:
            assert_close(one, other, 30 * dy[:, 0].size)
        else:
            assert one is None


def test_dilated_convolution_runs_within_the_documented_bound() -> None:
    rng = np.random.default_rng(7)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 64, 40, 40), (64, 64, 3, 3)))
    y = npconv.conv2d(x, weight, None, 1, 2, 2)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    actual = [y, *npconv.conv2d_backward(dy, x, weight, 1, 2, 2)[:2]]
    gemm = [npconv.conv2d(x, weight, None, 1, 2, 2, algorithm="gemm")]
    gemm += npconv.conv2d_backward(dy, x, weight, 1, 2, 2, algorithm="gemm")[:2]
    wide = [a.astype(np.float64) for a in (x, weight, dy)]
    expected = [npconv.conv2d(*wide[:2], None, 1, 2, 2, algorithm="gemm")]
    expected += npconv.conv2d_backward(wide[2], *wide[:2], 1, 2, 2, algorithm="gemm")[:2]
    for a, g, e in zip(actual, gemm, expected, strict=True):
        assert a.tobytes() != g.tobytes()
        assert np.abs(a - e).max() / np.sqrt(np.mean(e**2)) < 5e-5


@pytest.mark.parametrize(("kernel", "places"), [((3, 3), (1, 3, 0, 1, 2)), ((2, 2), (2,)), ((4, 7), ((4, 7),))])
def test_transposed_convolution_with_a_bias(kernel: tuple[int, int], places: tuple) -> None:
    rng = np.random.default_rng(10)
    x, weight, bias = (rng.standard_normal(s) for s in ((3, 40, 19, 24), (40, 36, *kernel), (36,)))
    expected = reference.conv_transpose2d(x, weight, bias, *places)
    assert_close(npconv.conv_transpose2d(x, weight, bias, *places), expected, 30 * 40 * 9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
@pytest.mark.parametrize(
    ("kernel", "places"), [(3, {"padding": 2, "dilation": 2}), (2, {"stride": 2}), (12, {"stride": 12})]
)
def test_fused_with_relu_and_pooling_is_the_same(
    dtype: type, window: tuple[int, int], kernel: int, places: dict[str, Any]
) -> None:
    rng = np.random.default_rng(9)
    c, size = (3, 84) if kernel == 12 else (40, 26)
    x, weight, bias = (
        rng.standard_normal(s).astype(dtype) for s in ((5, c, size, size), (100, c, kernel, kernel), (100,))
    )
    assert_fusing_changes_no_bit((x, weight, bias), window, **places)
