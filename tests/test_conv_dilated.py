"""Convolution with dilation, as convolutions without it of every d-th pixel."""

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
def convs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, Any, int]:
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(2, 4)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(2, 3)))
    padding = draw(st.tuples(pairs(0, 7), pairs(0, 7)))
    size = [draw(st.integers(d * (k + 4), d * (k + 6))) for d, k in zip(dilation, kernel, strict=True)]
    groups = draw(st.integers(1, 2))
    c, k = draw(st.integers(32, 35)), draw(st.integers(32, 35))  # of a group
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(0, 2)), groups * c, *size))
    weight = rng.standard_normal((groups * k, c, *kernel))
    return x, weight, rng.standard_normal(groups * k), padding, dilation, groups


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=convs())
def test_forward_and_gradients_are_the_reference(dtype: type, case: tuple) -> None:
    *arrays, padding, dilation, groups = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    y = npconv.conv2d(x, weight, bias, 1, padding, dilation, groups)
    reduction = int(np.prod(weight.shape[1:]))
    assert_close(y, reference.conv2d(*arrays, 1, padding, dilation, groups), 30 * reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, 1, padding, dilation, groups)
    expected = reference.conv2d_backward(dy, *arrays[:2], 1, padding, dilation, groups)
    for a, e, terms in zip(gradients, expected, (reduction, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "kernel", "padding", "dilation"),
    [
        ((11, 40, 57, 50), (3, 3), 2, 2),  # more images than are put apart at a time
        ((2, 70, 33, 31), (3, 3), (3, 4), (3, 4)),
        ((3, 33, 29, 20), (5, 5), 3, 2),
        ((2, 64, 20, 41), (1, 3), (0, 5), (1, 5)),
    ],
)
def test_any_number_of_threads_gives_the_same_bits(
    dtype: type, shape: tuple, kernel: tuple, padding: Any, dilation: Any
) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s) for s in (shape, (36, shape[1], *kernel), (36,))]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected_y = reference.conv2d(*arrays, 1, padding, dilation)
    dy = rng.standard_normal(expected_y.shape)
    expected = expected_y, *reference.conv2d_backward(dy, *arrays[:2], 1, padding, dilation)

    def call() -> list[np.ndarray]:
        y = npconv.conv2d(x, weight, bias, 1, padding, dilation)
        return [y, *npconv.conv2d_backward(dy.astype(dtype), x, weight, 1, padding, dilation)]

    results = assert_threads_change_no_bit(call)
    for a, e in zip(results, expected, strict=True):
        assert_close(a, e, 30 * max(dy[:, 0].size, int(np.prod(weight.shape[1:]))))
    # Each image is what it is alone.
    assert npconv.conv2d(x[-1:], weight, bias, 1, padding, dilation).tobytes() == results[0][-1:].tobytes()


def test_it_does_run_within_the_documented_bound() -> None:
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


def test_transposed_convolution_with_a_bias() -> None:
    rng = np.random.default_rng(10)
    x, weight, bias = (rng.standard_normal(s) for s in ((3, 40, 19, 24), (40, 36, 3, 3), (36,)))
    expected = reference.conv_transpose2d(x, weight, bias, 1, 3, 0, 1, 2)
    assert_close(npconv.conv_transpose2d(x, weight, bias, 1, 3, 0, 1, 2), expected, 30 * 40 * 9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_fused_with_relu_and_pooling_is_the_same(dtype: type, window: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in ((5, 40, 26, 29), (36, 40, 3, 3), (36,)))
    assert_fusing_changes_no_bit((x, weight, bias), window, padding=2, dilation=2)
