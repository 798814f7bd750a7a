"""Convolution of few channels in large batches, where the lanes of vectors are images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, assert_close, indices_of, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

import npconv
from npconv import functional, reference

Case = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Any, ...]]


@st.composite
def batches(draw: st.DrawFn) -> Case:
    """x, weight, bias, and stride, padding and dilation; the images fill most of the lanes, whatever their number."""
    kernel, dilation = draw(pairs(1, 5)), draw(pairs(1, 2))
    padding = draw(st.tuples(pairs(0, 3), pairs(0, 3)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, r - sum(p)) + draw(st.integers(0, 9)) for r, p in zip(reach, padding, strict=True)]
    n = draw(st.sampled_from([4, 8, 15, 16, 25, 31, 32, 40, 64, 70]))
    channels = draw(st.integers(1, min(20, 256 // (kernel[0] * kernel[1]))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    filters = draw(st.integers(5, 24))
    weight = rng.standard_normal((filters, channels, *kernel))
    options = ((draw(st.integers(1, 3)), 1), padding, dilation)
    return rng.standard_normal((n, channels, *size)), weight, rng.standard_normal(filters), options


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(case=batches())
def test_forward_and_gradients_are_the_reference(dtype: type, case: Case) -> None:
    *arrays, options = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected = reference.conv2d(*arrays, *options)
    y = npconv.conv2d(x, weight, bias, *options)
    reduction = int(np.prod(weight.shape[1:]))
    assert_close(y, expected, reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, *options)
    terms = reduction * len(weight), dy[:, 0].size, dy[:, 0].size
    for a, e, n in zip(gradients, reference.conv2d_backward(dy, *arrays[:2], *options), terms, strict=True):
        assert_close(a, e, n)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(case=batches(), kernel_size=pairs(1, 3), stride=pairs(1, 3))
def test_with_relu_and_pooling_it_gives_the_same_bits(
    dtype: type, case: Case, kernel_size: tuple[int, int], stride: tuple[int, int]
) -> None:
    *arrays, options = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    z = npconv.relu(npconv.conv2d(x, weight, bias, *options))
    if z.shape[2] < kernel_size[0] or z.shape[3] < kernel_size[1]:
        return
    pooling: dict[str, Any] = {"kernel_size": kernel_size, "pool_stride": stride}
    y, taps = functional.conv2d_relu_max_pool2d(x, weight, bias, *options, **pooling)
    expected, at = npconv.max_pool2d(z, kernel_size, stride, return_indices=True)
    assert y.tobytes() == expected.tobytes()
    indices = indices_of(taps, y.shape[3], z.shape[3], kernel_size, stride)
    np.testing.assert_array_equal(indices, np.where(expected <= 0, -1, at))
    alone, _ = functional.conv2d_relu_max_pool2d(x, weight, bias, *options, **pooling, return_taps=False)
    assert alone.tobytes() == y.tobytes()

    dy = np.random.default_rng(2).standard_normal(y.shape).astype(dtype)
    dz = npconv.relu_backward(npconv.max_pool2d_backward(dy, at, z.shape), z)
    fused = functional.conv2d_relu_max_pool2d_backward(dy, taps, x, weight, *options, **pooling)
    for a, e in zip(fused, npconv.conv2d_backward(dz, x, weight, *options), strict=True):
        assert a.tobytes() == e.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "weight_shape", "padding"),
    [((64, 10, 12, 12), (20, 10, 5, 5), 0), ((100, 6, 14, 14), (16, 6, 5, 5), 2), ((200, 1, 28, 28), (10, 1, 5, 5), 0)],
)
def test_any_number_of_threads_gives_the_same_bits(
    dtype: type, shape: tuple[int, ...], weight_shape: tuple[int, ...], padding: int
) -> None:
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal(shape).astype(dtype), rng.standard_normal(weight_shape).astype(dtype)
    results = []
    for count in (1, 2, 5, 16):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, None, 1, padding)
            pooled, taps = functional.conv2d_relu_max_pool2d(x, weight, None, 1, padding, kernel_size=2)
            gradients = npconv.conv2d_backward(y, x, weight, 1, padding)
            fused = functional.conv2d_relu_max_pool2d_backward(pooled, taps, x, weight, 1, padding, kernel_size=2)
            results.append([a.tobytes() for a in (y, pooled, taps, *gradients, *fused)])
    assert all(other == results[0] for other in results[1:])


def test_an_image_has_the_same_bits_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(4)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((64, 6, 14, 14), (16, 6, 5, 5)))
    y = npconv.conv2d(x, weight)
    assert npconv.conv2d(x[5:6], weight).tobytes() == y[5:6].tobytes()


def test_gradients_of_which_only_some_are_wanted() -> None:
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((32, 6, 10, 10)), rng.standard_normal((8, 6, 3, 3))
    dy = rng.standard_normal((32, 8, 8, 8))
    everything = npconv.conv2d_backward(dy, x, weight)
    for i in range(3):
        needs = tuple(j == i for j in range(3))
        some = npconv.conv2d_backward(dy, x, weight, needs=needs)
        assert [gradient is None for gradient in some] == [j != i for j in range(3)]
        assert some[i].tobytes() == everything[i].tobytes()


def test_infinities_stay_where_they_are() -> None:
    """Padding and empty lanes are multiplied by zeros, but not added to anything."""
    x, weight = np.zeros((33, 1, 6, 6), np.float32), np.ones((5, 1, 3, 3), np.float32)
    x = np.concatenate([x] * 2)[:40]
    x[7, 0, 2, 2] = np.inf
    y = npconv.conv2d(x, weight, padding=1)
    expected = reference.conv2d(x, weight, None, 1, 1)
    np.testing.assert_array_equal(y, expected)
    dx, dweight, _ = npconv.conv2d_backward(np.ones_like(y), x, weight, padding=1)
    expected_dx, expected_dweight, _ = reference.conv2d_backward(np.ones_like(y), x, weight, 1, 1)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dweight, expected_dweight)
