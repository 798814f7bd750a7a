"""conv_transpose2d and its gradients: by hand, against plain NumPy, and the rules at the corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    TransposeCase,
    assert_close,
    assert_float16_is_computed_in_float32,
    assert_layout_changes_no_bit,
    assert_threads_change_no_bit,
    conv_transpose_cases,
    numerical_gradient,
)
from hypothesis import given

import npconv
from npconv import reference

X, W, B = np.ones((2, 4, 5, 5)), np.ones((4, 3, 3, 3)), np.ones(3)
Y = np.ones((2, 3, 7, 7))


def test_2x2_by_hand() -> None:
    """Every pixel lays the filter, times its value, onto the result; where filters meet, they add up."""
    x = np.array([[1, 2], [3, 4]], float)[np.newaxis, np.newaxis]
    w = np.array([[1, 10], [100, 1000]], float)[np.newaxis, np.newaxis]
    apart = [[1, 10, 2, 20], [100, 1000, 200, 2000], [3, 30, 4, 40], [300, 3000, 400, 4000]]
    np.testing.assert_array_equal(npconv.conv_transpose2d(x, w, stride=2)[0, 0], apart)
    meeting = [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    np.testing.assert_array_equal(npconv.conv_transpose2d(x, w)[0, 0], meeting)
    np.testing.assert_array_equal(npconv.conv_transpose2d(x, w, np.array([0.5]))[0, 0], np.array(meeting) + 0.5)
    # padding cuts off, and output_padding adds rows and columns behind, which hold the bias alone.
    np.testing.assert_array_equal(npconv.conv_transpose2d(x, w, padding=1)[0, 0], [[1234]])
    y = npconv.conv_transpose2d(x, w, padding=((1, 0), (0, 2)))
    np.testing.assert_array_equal(y[0, 0], [[103], [300]])
    y = npconv.conv_transpose2d(x, w, np.array([7.0]), stride=2, output_padding=1)
    np.testing.assert_array_equal(y[0, 0], np.pad(apart, (0, 1)) + 7)
    y = npconv.conv_transpose2d(x, w, dilation=2)
    np.testing.assert_array_equal(
        y[0, 0], [[1, 2, 10, 20], [3, 4, 30, 40], [100, 200, 1000, 2000], [300, 400, 3000, 4000]]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=conv_transpose_cases())
def test_forward_is_the_reference(dtype: type, case: TransposeCase) -> None:
    x, weight = case.x.astype(dtype), case.weight.astype(dtype)
    y = npconv.conv_transpose2d(x, weight, None if case.bias is None else case.bias.astype(dtype), *case.arguments)
    assert y.dtype == dtype
    assert_close(y, reference.conv_transpose2d(*case[:3], *case.arguments), weight[:, 0].size)


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=conv_transpose_cases())
def test_gradients_are_the_reference(dtype: type, case: TransposeCase) -> None:
    y = reference.conv_transpose2d(*case[:3], *case.arguments)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    arrays = (a.astype(dtype) for a in (dy, case.x, case.weight))
    actual = npconv.conv_transpose2d_backward(*arrays, *case.arguments)
    expected = reference.conv_transpose2d_backward(dy, case.x, case.weight, *case.arguments)
    for a, e, terms in zip(actual, expected, (case.weight[0].size, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, terms)


@pytest.mark.parametrize(
    ("shape", "weight_shape", "arguments"),
    [
        ((2, 3, 4, 5), (3, 2, 3, 2), (1, 0, 0, 1, 1)),
        ((1, 4, 3, 4), (4, 3, 3, 3), (2, 1, 1, 2, 1)),
        ((1, 2, 3, 3), (2, 3, 2, 3), ((3, 2), ((2, 0), (1, 3)), (1, 0), 1, (2, 1))),
        ((1, 2, 3, 2), (2, 1, 2, 2), (1, 0, (1, 2), 1, (2, 3))),
    ],
)
def test_gradients_are_finite_differences(
    rng: np.random.Generator, shape: tuple, weight_shape: tuple, arguments: tuple
) -> None:
    x, weight = rng.standard_normal(shape), rng.standard_normal(weight_shape)
    bias = rng.standard_normal(weight_shape[1] * arguments[3])
    dy = rng.standard_normal(npconv.conv_transpose2d(x, weight, bias, *arguments).shape)
    gradients = npconv.conv_transpose2d_backward(dy, x, weight, *arguments)
    for parameter, gradient in zip((x, weight, bias), gradients, strict=True):
        expected = numerical_gradient(lambda: npconv.conv_transpose2d(x, weight, bias, *arguments), parameter, dy)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-11)


def test_it_is_the_transpose_of_conv2d(rng: np.random.Generator) -> None:
    """With the same filters: <conv2d(a), b> = <a, conv_transpose2d(b)>."""
    a, weight = rng.standard_normal((2, 6, 11, 12)), rng.standard_normal((8, 3, 3, 4))
    convolved = npconv.conv2d(a, weight, stride=2, padding=1, groups=2)
    b = rng.standard_normal(convolved.shape)
    transposed = npconv.conv_transpose2d(b, weight, stride=2, padding=1, output_padding=(0, 0), groups=2)
    assert transposed.shape == a.shape
    np.testing.assert_allclose((convolved * b).sum(), (a * transposed).sum(), rtol=1e-12)


# Upsampling as in decoders, depthwise and grouped, many channels, tiny and wide planes, filters that leave gaps.
LARGE = [
    ((3, 70, 13, 13), (70, 40, 3, 3), (1, 1)),
    ((2, 64, 14, 14), (64, 32, 4, 4), (2, 1)),
    ((2, 40, 15, 17), (40, 33, 2, 2), (2,)),
    ((2, 24, 20, 20), (24, 1, 5, 5), (2, 2, 1, 24)),
    ((2, 24, 20, 20), (24, 1, 4, 4), (2, 1, 0, 24)),
    ((2, 36, 12, 11), (36, 10, 3, 3), (2, 1, 1, 3)),
    ((1, 2, 30, 1100), (2, 3, 3, 3), (1, 1)),
    ((2, 400, 6, 5), (400, 33, 1, 1), (1,)),
    ((1, 100, 1, 1), (100, 64, 7, 7), (1,)),
    ((1, 3, 20, 25), (3, 2, 2, 3), (5, 0, 4)),
    ((1, 5, 9, 40), (5, 6, 4, 4), (3, 2, 0, 1, (2, 3))),
    ((1, 1, 1, 3000), (1, 2, 1, 9), (2, 0, 0, 1, 3)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "arguments"), LARGE)
def test_larger_shapes_on_any_number_of_threads(
    dtype: type, shape: tuple, weight_shape: tuple, arguments: tuple
) -> None:
    rng = np.random.default_rng(5)
    groups = arguments[3] if len(arguments) > 3 else 1
    arrays = (
        rng.standard_normal(shape),
        rng.standard_normal(weight_shape),
        rng.standard_normal(weight_shape[1] * groups),
    )
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected = reference.conv_transpose2d(*arrays, *arguments)
    dy = rng.standard_normal(expected.shape)
    expected_gradients = reference.conv_transpose2d_backward(dy, *arrays[:2], *arguments)

    def everything() -> tuple:
        y = npconv.conv_transpose2d(x, weight, bias, *arguments)
        return y, *npconv.conv_transpose2d_backward(dy.astype(dtype), x, weight, *arguments)

    y, *gradients = everything()
    assert_close(y, expected, weight[:, 0].size)
    for a, e in zip(gradients, expected_gradients, strict=True):
        assert_close(a, e, max(weight[0].size, dy[:, 0].size))
    assert_threads_change_no_bit(everything)


def test_needs_leaves_out(rng: np.random.Generator) -> None:
    x, weight, dy = (
        rng.standard_normal((2, 3, 4, 4)),
        rng.standard_normal((3, 4, 3, 3)),
        rng.standard_normal((2, 4, 6, 6)),
    )
    everything = npconv.conv_transpose2d_backward(dy, x, weight)
    for needs in np.ndindex(2, 2, 2):
        some = npconv.conv_transpose2d_backward(dy, x, weight, needs=tuple(bool(n) for n in needs))
        for need, a, e in zip(needs, some, everything, strict=True):
            if need:
                np.testing.assert_array_equal(a, e)
            else:
                assert a is None


def test_layout_makes_no_difference(rng: np.random.Generator) -> None:
    x, weight, bias = rng.standard_normal((2, 4, 5, 4)), rng.standard_normal((4, 3, 3, 2)), rng.standard_normal(6)
    dy = rng.standard_normal((2, 6, 10, 7))

    def everything(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dy: np.ndarray) -> tuple:
        y = npconv.conv_transpose2d(x, weight, bias, 2, (1, 1), 1, 2)
        return y, *npconv.conv_transpose2d_backward(dy, x, weight, 2, (1, 1), 1, 2)

    for dtype in DTYPES:
        assert_layout_changes_no_bit(everything, *(a.astype(dtype) for a in (x, weight, bias, dy)))
    assert_float16_is_computed_in_float32(everything, x, weight, bias, dy)


def test_dtype_is_promoted_as_numpy_does() -> None:
    y = npconv.conv_transpose2d(X.astype(np.uint8), W.astype(np.float32))
    assert y.dtype == np.float32
    assert npconv.conv_transpose2d(X, W.astype(np.float32), B.astype(np.float32)).dtype == np.float64


def test_single_image_is_a_batch_of_one(rng: np.random.Generator) -> None:
    x, weight, bias = rng.standard_normal((3, 5, 4)), rng.standard_normal((3, 4, 3, 3)), rng.standard_normal(4)
    y = npconv.conv_transpose2d(x, weight, bias, 2, 1, 1)
    np.testing.assert_array_equal(y, npconv.conv_transpose2d(x[np.newaxis], weight, bias, 2, 1, 1)[0], strict=True)
    single = npconv.conv_transpose2d_backward(y, x, weight, 2, 1, 1)
    batch = npconv.conv_transpose2d_backward(y[np.newaxis], x[np.newaxis], weight, 2, 1, 1)
    np.testing.assert_array_equal(single[0], batch[0][0], strict=True)
    np.testing.assert_array_equal(single[1], batch[1], strict=True)
    np.testing.assert_array_equal(single[2], batch[2], strict=True)


def test_empty_batch() -> None:
    x, weight = np.zeros((0, 3, 5, 4), np.float32), np.ones((3, 4, 3, 3), np.float32)
    y = npconv.conv_transpose2d(x, weight, np.ones(4, np.float32), 2)
    assert (y.shape, y.dtype) == ((0, 4, 11, 9), np.float32)
    dx, dweight, dbias = npconv.conv_transpose2d_backward(y, x, weight, 2)
    assert dx.shape == x.shape
    assert dweight.shape == weight.shape
    assert not dweight.any()
    assert dbias.tolist() == [0] * 4


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x = np.zeros((1, 1, 4, 30))
    x[0, 0, 0, 3], x[0, 0, 3, 29] = np.nan, np.inf
    y = npconv.conv_transpose2d(x, np.ones((1, 1, 3, 3)), stride=2)
    expected = np.zeros((9, 61))
    expected[:3, 6:9], expected[6:, 58:] = np.nan, np.inf
    np.testing.assert_array_equal(y[0, 0], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: npconv.conv_transpose2d(X.astype(int), W.astype(int)), TypeError, "conv_transpose2d: x is int64"),
        (lambda: npconv.conv_transpose2d(X[0, 0], W), ValueError, r"conv_transpose2d: x has shape \(5, 5\)"),
        (lambda: npconv.conv_transpose2d(X, W[0]), ValueError, r"conv_transpose2d: weight has shape \(3, 3, 3\)"),
        (lambda: npconv.conv_transpose2d(X, W[:3]), ValueError, "conv_transpose2d: .*weight.*3.*4|.*x.*4.*3"),
        (lambda: npconv.conv_transpose2d(X, W, groups=3), ValueError, "conv_transpose2d: .*4.*groups=3"),
        (lambda: npconv.conv_transpose2d(X, W, groups=0), ValueError, "conv_transpose2d: .*groups.*0"),
        (lambda: npconv.conv_transpose2d(X, W, B[:2]), ValueError, r"conv_transpose2d: bias must have shape \(3,\)"),
        (lambda: npconv.conv_transpose2d(X, W, np.ones(4), groups=2), ValueError, r"bias must have shape \(6,\)"),
        (lambda: npconv.conv_transpose2d(X[:, :0], W[:0]), ValueError, "conv_transpose2d: .* no channels"),
        (lambda: npconv.conv_transpose2d(X, W[:, :0]), ValueError, "conv_transpose2d: weight has no .*channels"),
        (lambda: npconv.conv_transpose2d(X[:, :, :0], W), ValueError, r"conv_transpose2d: .*image .*\(0, 5\)"),
        (lambda: npconv.conv_transpose2d(X, W[:, :, :0]), ValueError, "conv_transpose2d: the kernel size is"),
        (lambda: npconv.conv_transpose2d(X, W, stride=0), ValueError, r"conv_transpose2d: stride is \(0, 0\)"),
        (lambda: npconv.conv_transpose2d(X, W, dilation=0), ValueError, r"conv_transpose2d: dilation is \(0, 0\)"),
        (lambda: npconv.conv_transpose2d(X, W, padding=-1), ValueError, "conv_transpose2d: padding"),
        (lambda: npconv.conv_transpose2d(X, W, padding=4), ValueError, "conv_transpose2d: .*padding"),
        (lambda: npconv.conv_transpose2d(X, W, padding="full"), ValueError, "conv_transpose2d: padding is 'full'"),
        (
            lambda: npconv.conv_transpose2d(X, W, output_padding=1),
            ValueError,
            r"conv_transpose2d: output_padding is \(1, 1\)",
        ),
        (
            lambda: npconv.conv_transpose2d(X, W, stride=(3, 2), output_padding=2),
            ValueError,
            r"conv_transpose2d: output_padding is \(2, 2\)",
        ),
        (lambda: npconv.conv_transpose2d(X, W, output_padding=-1), ValueError, "conv_transpose2d: output_padding"),
        (
            lambda: npconv.conv_transpose2d(X, W, output_padding=0.5),
            TypeError,
            "conv_transpose2d: output_padding is 0.5",
        ),
        (
            lambda: npconv.conv_transpose2d_backward(Y[:, :2], X, W),
            ValueError,
            "conv_transpose2d_backward: dy has shape",
        ),
        (
            lambda: npconv.conv_transpose2d_backward(Y[..., 1:], X, W),
            ValueError,
            "conv_transpose2d_backward: dy has shape",
        ),
        (lambda: npconv.conv_transpose2d_backward(Y[0], X, W), ValueError, "conv_transpose2d_backward: .*x and dy"),
        (
            lambda: npconv.conv_transpose2d_backward(Y, X, W, needs=(True, True)),
            ValueError,
            "conv_transpose2d_backward: needs is",
        ),
        # sizes that no memory holds
        (lambda: npconv.conv_transpose2d(X, W, stride=2**31), ValueError, "conv_transpose2d: stride is 2147483648"),
        (lambda: npconv.conv_transpose2d(X, W, stride=2**31 - 1), (ValueError, MemoryError), None),
        (lambda: npconv.conv_transpose2d(X, W, dilation=2**31 - 1), (ValueError, MemoryError), None),
        (lambda: npconv.conv_transpose2d(X, W, stride=2**24), MemoryError, None),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: Any, message: str | None) -> None:
    with pytest.raises(error, match=message):
        call()
