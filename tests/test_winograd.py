"""3x3 convolution by Winograd's algorithm: the numbers of the matrix product, within the error that is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, assert_close, pairs
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import functional, reference

ALGORITHMS = ("winograd2", "winograd4")


@st.composite
def convs_3x3(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, int]:
    padding = draw(st.tuples(pairs(0, 4), pairs(0, 4)))
    size = [max(1, 3 - sum(p)) + draw(st.integers(0, 20)) for p in padding]
    groups = draw(st.integers(1, 3))
    # Around the vectors of channels: up to 32 of them.
    in_channels, out_channels = groups * draw(st.integers(1, 35)), groups * draw(st.integers(1, 35))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(0, 3)), in_channels, *size))
    weight = rng.standard_normal((out_channels, in_channels // groups, 3, 3))
    return x, weight, rng.standard_normal(out_channels), padding, groups


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=convs_3x3())
def test_forward_and_gradients_are_the_reference(algorithm: str, dtype: type, case: tuple) -> None:
    *arrays, padding, groups = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected = reference.conv2d(*arrays, 1, padding, 1, groups)
    y = npconv.conv2d(x, weight, bias, 1, padding, 1, groups, algorithm=algorithm)
    reduction = int(np.prod(weight.shape[1:]))
    # The transforms multiply rounding errors by a small factor.
    assert_close(y, expected, 30 * reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, 1, padding, 1, groups, algorithm=algorithm)
    expected = reference.conv2d_backward(dy, *arrays[:2], 1, padding, 1, groups)
    for a, e, terms in zip(gradients, expected, (reduction, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


# Several blocks of tiles, steps over channels and panels of them; odd sizes.
LARGE = [
    ((3, 70, 13, 13), (40, 70, 3, 3), 1),
    ((2, 150, 7, 7), (300, 150, 3, 3), 1),
    ((1, 40, 61, 230), (33, 40, 3, 3), 0),
    ((40, 33, 9, 10), (65, 33, 3, 3), 1),
    ((1, 3, 5, 1500), (4, 3, 3, 3), 2),
    ((60, 33, 13, 9), (65, 33, 3, 3), 0),  # dx has more tiles than dy: these scatter
    ((3, 34, 41, 41), (33, 34, 3, 3), 0),  # ... more than a task usually has
    ((4, 200, 34, 18), (170, 200, 3, 3), 1),  # many weights, and too many to keep them transformed
    ((2, 390, 26, 26), (330, 390, 3, 3), 1),
]


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "padding"), LARGE)
def test_larger_shapes_with_any_number_of_threads(
    algorithm: str, dtype: type, shape: tuple, weight_shape: tuple, padding: int
) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s) for s in (shape, weight_shape, weight_shape[:1])]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected_y = reference.conv2d(*arrays, 1, padding)
    dy = rng.standard_normal(expected_y.shape)
    expected = expected_y, *reference.conv2d_backward(dy, *arrays[:2], 1, padding)
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, bias, 1, padding, algorithm=algorithm)
            gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, 1, padding, algorithm=algorithm)
            results.append([y, *gradients])
    for a, e in zip(results[0], expected, strict=True):
        assert_close(a, e, 30 * max(dy[:, 0].size, int(np.prod(weight_shape[1:]))))
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]


@pytest.mark.parametrize(("algorithm", "bound"), [("gemm", 5e-6), ("winograd2", 5e-6), ("winograd4", 5e-5)])
@pytest.mark.parametrize("channels", [16, 64, 256])
@pytest.mark.parametrize(("size", "padding"), [(28, 1), (13, 0)])
def test_error_is_within_the_documented_bound(
    algorithm: str, bound: float, channels: int, size: int, padding: int
) -> None:
    """The largest error over the root mean square of the result, float32 against float64."""
    rng = np.random.default_rng(7)
    x, weight = rng.standard_normal((2, channels, size, size)), rng.standard_normal((64, channels, 3, 3))
    dy = rng.standard_normal((2, 64, size - 2 + 2 * padding, size - 2 + 2 * padding))
    x, weight, dy = (a.astype(np.float32) for a in (x, weight, dy))
    actual = [npconv.conv2d(x, weight, padding=padding, algorithm=algorithm)]
    actual += npconv.conv2d_backward(dy, x, weight, padding=padding, algorithm=algorithm)[:2]
    wide = [a.astype(np.float64) for a in (x, weight, dy)]
    expected = [npconv.conv2d(*wide[:2], padding=padding, algorithm="gemm")]
    expected += npconv.conv2d_backward(wide[2], *wide[:2], padding=padding, algorithm="gemm")[:2]
    for a, e in zip(actual, expected, strict=True):
        assert np.abs(a - e).max() / np.sqrt(np.mean(e**2)) < bound


def test_transposed_convolution_with_a_bias() -> None:
    rng = np.random.default_rng(10)
    x, weight, bias = rng.standard_normal((20, 64, 7, 7)), rng.standard_normal((64, 48, 3, 3)), rng.standard_normal(48)
    expected = reference.conv_transpose2d(x, weight, bias)
    results = []
    for count in (1, 3):
        with npconv.threads(count):
            results.append(npconv.conv_transpose2d(x, weight, bias))
    assert_close(results[0], expected, 30 * 64 * 9)
    assert results[0].tobytes() == results[1].tobytes()


def test_the_algorithms_differ_in_their_bits() -> None:
    """So each of them did run."""
    rng = np.random.default_rng(8)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 64, 30, 30), (64, 64, 3, 3)))
    results = {name: npconv.conv2d(x, weight, algorithm=name).tobytes() for name in ("gemm", *ALGORITHMS)}
    assert len(set(results.values())) == 3
    assert npconv.conv2d(x, weight).tobytes() in results.values()


@pytest.mark.parametrize("size", [3, 4, 7, 12, 33])
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (1, 16), (3, 8), (15, 64), (64, 15)])
def test_few_channels_stay_exact(size: int, channels: int, filters: int) -> None:
    """The transforms would round what whole numbers add up to."""
    rng = np.random.default_rng(11)
    x = rng.integers(-9, 10, (2, channels, size, size)).astype(np.float32)
    weight = rng.integers(-9, 10, (filters, channels, 3, 3)).astype(np.float32)
    dy = rng.integers(-9, 10, (2, filters, size, size)).astype(np.float32)
    np.testing.assert_array_equal(npconv.conv2d(x, weight, padding=1), reference.conv2d(x, weight, None, 1, 1))
    expected = reference.conv2d_backward(dy, x, weight, 1, 1)
    for a, e in zip(npconv.conv2d_backward(dy, x, weight, padding=1), expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 1, 1), (3, 2, 1), (3, 1, 2), (1, 1, 1)])
def test_other_convolutions_are_refused(algorithm: str, kernel: int, stride: int, dilation: int) -> None:
    x, weight = np.ones((1, 2, 9, 9)), np.ones((3, 2, kernel, kernel))
    with pytest.raises(ValueError, match=rf"conv2d: algorithm is '{algorithm}'.*3x3.*'auto'"):
        npconv.conv2d(x, weight, None, stride, 0, dilation, algorithm=algorithm)
    dy = npconv.conv2d(x, weight, None, stride, 0, dilation)
    with pytest.raises(ValueError, match=rf"conv2d_backward: algorithm is '{algorithm}'"):
        npconv.conv2d_backward(dy, x, weight, stride, 0, dilation, algorithm=algorithm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [20, 21])  # with pixels left over, which no window has
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (2, 1)])
def test_fused_with_relu_and_pooling_is_the_same(dtype: type, size: int, padding: int, window: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    shapes = (5, 48, size, size + 2), (40, 48, 3, 3), (40,)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in shapes)
    options: dict[str, Any] = {"padding": padding, "kernel_size": window[0], "pool_stride": window[1]}
    y, indices = functional.conv2d_relu_max_pool2d(x, weight, bias, **options)
    z = npconv.conv2d(x, weight, bias, padding=padding)
    pooled, at = npconv.max_pool2d(functional.relu(z), *window, return_indices=True)
    assert y.tobytes() == pooled.tobytes()
    dy = rng.standard_normal(y.shape).astype(dtype)
    dz = functional.relu_backward(npconv.max_pool2d_backward(dy, at, z.shape), functional.relu(z))
    fused = functional.conv2d_relu_max_pool2d_backward(dy, indices, x, weight, **options)
    for a, e in zip(fused, npconv.conv2d_backward(dz, x, weight, padding=padding), strict=True):
        assert a.tobytes() == e.tobytes()
