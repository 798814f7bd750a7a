"""What the gate does with unusual arrays (same values as the plain copy) and with wrong arguments (a clear error)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npconv

X, W, B = np.ones((2, 4, 8, 8), np.float32), np.ones((6, 4, 3, 3), np.float32), np.ones(6, np.float32)
Y = np.ones((2, 6, 6, 6), np.float32)
FAR, D = np.ones((4, 1, 2, 2), np.float32), 2**28


def unaligned(a: np.ndarray) -> np.ndarray:
    """Return a copy whose data begins at an odd address."""
    buffer = np.empty(a.nbytes + 1, np.uint8)
    view = buffer[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "channels last": lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": unaligned,
    "read-only": read_only,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layout_makes_no_difference(rng: np.random.Generator, layout: str, dtype: type) -> None:
    change = LAYOUTS[layout]
    x, weight = rng.standard_normal((2, 3, 9, 8)).astype(dtype), rng.standard_normal((5, 3, 3, 3)).astype(dtype)
    y = npconv.conv2d(x, weight, padding=1)
    x2, weight2 = change(x), change(weight)
    before = x2.copy(), weight2.copy()

    np.testing.assert_array_equal(npconv.conv2d(x2, weight2, padding=1), y, strict=True)
    gradients = npconv.conv2d_backward(y, x, weight, padding=1)
    for a, e in zip(npconv.conv2d_backward(change(y), x2, weight2, padding=1), gradients, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)
    pooled, indices = npconv.max_pool2d(x, 2, return_indices=True)
    pooled2, indices2 = npconv.max_pool2d(x2, 2, return_indices=True)
    np.testing.assert_array_equal(pooled2, pooled, strict=True)
    np.testing.assert_array_equal(indices2, indices, strict=True)
    np.testing.assert_array_equal(
        npconv.max_pool2d_backward(change(pooled), change(indices), x.shape),
        npconv.max_pool2d_backward(pooled, indices, x.shape),
        strict=True,
    )
    col = npconv.im2col(x, 3, 3)
    np.testing.assert_array_equal(npconv.im2col(x2, 3, 3), col, strict=True)
    np.testing.assert_array_equal(npconv.relu(x2), npconv.relu(x), strict=True)
    np.testing.assert_array_equal(npconv.relu_backward(x2, change(x)), npconv.relu_backward(x, x), strict=True)
    for a, b in zip((x2, weight2), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", ["Fortran order", "reversed", "big-endian", "unaligned", "read-only"])
def test_layout_of_matrices_makes_no_difference(rng: np.random.Generator, layout: str) -> None:
    change = LAYOUTS[layout]
    x, weight, bias = rng.standard_normal((7, 9)), rng.standard_normal((9, 5)), rng.standard_normal(5)
    y = npconv.affine(x, weight, bias)
    np.testing.assert_array_equal(npconv.affine(change(x), change(weight), change(bias)), y, strict=True)
    for a, e in zip(
        npconv.affine_backward(change(y), change(x), change(weight)), npconv.affine_backward(y, x, weight), strict=True
    ):
        np.testing.assert_array_equal(a, e, strict=True)
    col = npconv.im2col(rng.standard_normal((1, 2, 5, 5)), 2, 2)
    back = npconv.col2im(col, (1, 2, 5, 5), 2, 2)
    np.testing.assert_array_equal(npconv.col2im(change(col), (1, 2, 5, 5), 2, 2), back, strict=True)


@pytest.mark.parametrize(
    ("x_dtype", "weight_dtype", "expected"),
    [
        ("float32", "float32", "float32"),
        ("float64", "float32", "float64"),
        ("float32", "float64", "float64"),
        ("uint8", "float32", "float32"),
        ("bool", "float32", "float32"),
        ("float32", "int64", "float64"),
        ("float16", "float16", "float16"),
        ("float16", "float32", "float32"),
        (">f4", "<f4", "float32"),
        (">f8", "float32", "float64"),
    ],
)
def test_dtype_is_promoted_as_numpy_does(x_dtype: str, weight_dtype: str, expected: str) -> None:
    values = np.random.default_rng(1).integers(0, 2, (2, 3, 6, 6))
    x, weight = values.astype(x_dtype), np.ones((4, 3, 3, 3), weight_dtype)
    y = npconv.conv2d(x, weight, np.ones(4))
    assert y.dtype == np.dtype(expected)
    assert y.dtype.isnative
    np.testing.assert_array_equal(y, npconv.conv2d(values.astype(float), np.ones((4, 3, 3, 3)), np.ones(4)))
    for gradient in npconv.conv2d_backward(y, x, weight):
        assert gradient.dtype == np.dtype(expected)


def test_float16_is_computed_in_float32(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((1, 64, 6, 6)).astype(np.float16), np.ones((1, 64, 5, 5), np.float16)
    exact = npconv.conv2d(x.astype(np.float64), weight.astype(np.float64))
    np.testing.assert_array_equal(npconv.conv2d(x, weight), exact.astype(np.float32).astype(np.float16))
    pooled = npconv.max_pool2d(x, 2)
    assert pooled.dtype == np.float16
    assert npconv.relu(x).dtype == np.float16


def test_numpy_numbers_are_ints_too() -> None:
    assert (
        npconv.conv2d(X, W, stride=np.int64(2)).shape == npconv.conv2d(X, W, stride=np.array(2)).shape == (2, 6, 3, 3)
    )
    assert npconv.conv2d(X, W, stride=np.array([1, 2])).shape == (2, 6, 6, 3)


def test_lists_are_arrays_too() -> None:
    assert npconv.conv2d([[[[1.0, 2.0]]]], [[[[3.0]]]]).tolist() == [[[[3.0, 6.0]]]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        # types
        (lambda: npconv.conv2d(X.astype(int), W.astype(int)), TypeError, "conv2d: x is int64, weight is int64; needed"),
        (lambda: npconv.conv2d(X > 0, W > 0), TypeError, "conv2d: x is bool, weight is bool; needed"),
        (lambda: npconv.conv2d(X + 0j, W), TypeError, "conv2d: x is complex64"),
        (lambda: npconv.conv2d(X.astype(object), W), TypeError, "conv2d: x is object"),
        (lambda: npconv.conv2d(X.astype(np.longdouble), W), TypeError, "conv2d: x is float128|conv2d: x is longdouble"),
        (lambda: npconv.conv2d(X, W, B + 0j), TypeError, "conv2d: bias is complex64"),
        (lambda: npconv.conv2d(X, W, stride=1.5), TypeError, "conv2d: stride is 1.5; needed is an int or a pair"),
        (lambda: npconv.conv2d(X, W, stride="2"), TypeError, "conv2d: stride is '2'"),
        (lambda: npconv.conv2d(X, W, groups=None), TypeError, "conv2d: groups is None; needed is an int"),
        (lambda: npconv.conv2d(X, W, padding=(1, 2.5)), TypeError, "conv2d: padding is 2.5"),
        (lambda: npconv.max_pool2d(X.astype(int), 2), TypeError, "max_pool2d: x is int64; needed is float32"),
        (lambda: npconv.max_pool2d(X, None), TypeError, "max_pool2d: kernel_size is None"),
        (lambda: npconv.relu(np.arange(3)), TypeError, "relu: x is int64"),
        (lambda: npconv.im2col(X.astype(int), 2, 2), TypeError, "im2col: input_data is int64"),
        # shapes
        (lambda: npconv.conv2d(X[0, 0], W), ValueError, r"conv2d: x has shape \(8, 8\); needed is \(N, C, H, W\)"),
        (lambda: npconv.conv2d(X, W[0]), ValueError, r"conv2d: weight has shape \(4, 3, 3\)"),
        (lambda: npconv.conv2d(X, W, B[:5]), ValueError, r"conv2d: bias must have shape \(6,\)"),
        (lambda: npconv.conv2d(X, W, 3.0), ValueError, "conv2d: bias must have shape"),
        (
            lambda: npconv.conv2d(X, W[:, :3]),
            ValueError,
            "conv2d: weight has 3 input channels per group, x has 4 channels with groups=1",
        ),
        (lambda: npconv.conv2d(X, W, groups=3), ValueError, "conv2d: x has 4 channels, which groups=3 does not divide"),
        (lambda: npconv.conv2d(X, W[:5, :2], groups=2), ValueError, "weight has 5 output channels, which groups=2"),
        (lambda: npconv.conv2d(X[:, :0], W[:, :0]), ValueError, "conv2d: x has no channels"),
        (lambda: npconv.conv2d(X[:, :, :0], W, padding=3), ValueError, "conv2d: x has an empty image"),
        (lambda: npconv.conv2d(X, W[:0]), ValueError, "conv2d: weight has no channels"),
        (lambda: npconv.conv2d(X, W[:, :, :0]), ValueError, "conv2d: the kernel size is"),
        (lambda: npconv.conv2d(X[:, :, :2], W), ValueError, r"conv2d: the window spans \(3, 3\), more than the padded"),
        (
            lambda: npconv.conv2d_backward(Y[:, :5], X, W),
            ValueError,
            r"conv2d_backward: dy has shape \(2, 5, 6, 6\); needed",
        ),
        (lambda: npconv.conv2d_backward(Y[0], X, W), ValueError, "conv2d_backward: of x and dy one is a single image"),
        (lambda: npconv.conv2d_backward(Y, X, W, needs=(True, True)), ValueError, "conv2d_backward: needs is"),
        (lambda: npconv.max_pool2d(X[:, :0], 2), ValueError, "max_pool2d: x has no channels"),
        (lambda: npconv.max_pool2d(X, 9), ValueError, r"max_pool2d: the window spans \(9, 9\)"),
        (
            lambda: npconv.max_pool2d(X, 2, padding=2),
            ValueError,
            r"max_pool2d: padding is \(2, 2\), more than half of kernel_size: at most \(1, 1\)",
        ),
        (lambda: npconv.affine(X[0, 0], W[0, 0]), ValueError, "affine: x has 8 columns, weight has 3 rows"),
        (lambda: npconv.affine(X[0, 0], np.ones((8, 2)), np.ones(3)), ValueError, "affine: bias has shape"),
        (lambda: npconv.affine_backward(Y[0, 0], X[0, 0], X[0, 0]), ValueError, "affine_backward: dy has shape"),
        (lambda: npconv.relu_backward(X, X[0]), ValueError, "relu_backward: dy has shape"),
        (lambda: npconv.im2col(X[0], 2, 2), ValueError, "im2col: input_data has shape"),
        (lambda: npconv.col2im(np.ones((3, 3)), X.shape, 2, 2), ValueError, "col2im: col must have shape"),
        (lambda: npconv.col2im(np.ones((3, 3)), (1, 2), 2, 2), ValueError, "col2im: input_shape is"),
        # values
        (
            lambda: npconv.conv2d(X, W, stride=0),
            ValueError,
            r"conv2d: stride is \(0, 0\), each value must be at least 1",
        ),
        (lambda: npconv.conv2d(X, W, dilation=-1), ValueError, r"conv2d: dilation is \(-1, -1\)"),
        (lambda: npconv.conv2d(X, W, padding=-1), ValueError, "conv2d: padding"),
        (lambda: npconv.conv2d(X, W, groups=0), ValueError, "conv2d: groups is 0"),
        (lambda: npconv.conv2d(X, W, stride=(1, 2, 3)), ValueError, r"conv2d: stride is \(1, 2, 3\); needed is"),
        (lambda: npconv.conv2d(X, W, padding="full"), ValueError, "conv2d: padding is 'full'"),
        (lambda: npconv.conv2d(X, W, 0, padding="same", stride=2), ValueError, "padding='same' needs stride 1"),
        (lambda: npconv.conv2d(X, W, stride=[1, [2, 3]]), TypeError, r"conv2d: stride is \[2, 3\]; needed is an int"),
        (
            lambda: npconv.conv2d(X, W, padding=[[1, 2], [3]]),
            ValueError,
            r"conv2d: padding is \[3\]; needed is an int or",
        ),
        (lambda: npconv.conv2d([[1, 2], [3]], W), ValueError, "conv2d: x is .*; needed is an array, all rows of the"),
        (lambda: npconv.conv2d(X.astype("M8[s]"), W), TypeError, r"conv2d: x is datetime64\[s\], weight is float32"),
        (lambda: npconv.conv2d(X, W, algorithm=["auto"]), ValueError, r"conv2d: algorithm is \['auto'\]; available"),
        (lambda: npconv.conv2d(X, W, B[:5]), ValueError, r"conv2d: bias must have .*; it has \(5,\)"),
        (lambda: npconv.batch_norm(X, eps=10**400), ValueError, "batch_norm: eps is beyond the range of float64"),
        (lambda: npconv.conv_transpose2d(X, W[:4], groups=0), ValueError, "conv_transpose2d: groups is 0"),
        (lambda: npconv.unfold(np.zeros((0, 4, 2, 2)), 2**31 - 1, padding=2**30), ValueError, "unfold: "),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.full((1, 2, 2), 2**64 - 1, np.uint64), (1, 4, 4)),
            ValueError,
            "max_pool2d_backward: indices hold 18446744073709551615",
        ),
        (lambda: npconv.conv2d(X, W, padding_mode="mirror"), ValueError, "conv2d: padding_mode is 'mirror'"),
        (lambda: npconv.conv2d(X, W, algorithm="fft"), ValueError, "conv2d: algorithm is 'fft'"),
        (lambda: npconv.conv_output_size(5, 3, 0), ValueError, "conv_output_size: stride is 0; it must be at least 1"),
        (lambda: npconv.conv_output_size(0, 3), ValueError, "conv_output_size: input_size is 0"),
        (lambda: npconv.im2col(X, 0, 3), ValueError, "im2col: filter_h is 0; it must be at least 1"),
        (lambda: npconv.conv2d(X, W, padding=((1, 2), 3)), ValueError, r"conv2d: padding is \(\(1, 2\), 3\)"),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.full((1, 2, 2), 99), (1, 4, 4)),
            ValueError,
            "max_pool2d_backward: indices holds 99, the planes they point into have 16 pixels",
        ),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.full((1, 2, 2), -2), (1, 4, 4)),
            ValueError,
            "max_pool2d_backward: indices holds -2",
        ),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.ones((1, 2, 2)), (1, 4, 4)),
            TypeError,
            "max_pool2d_backward: indices are float64",
        ),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.ones((1, 2, 3), int), (1, 4, 4)),
            ValueError,
            "max_pool2d_backward: indices have shape",
        ),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.ones((1, 2, 2), int), (2, 4, 4)),
            ValueError,
            "max_pool2d_backward: input_shape is",
        ),
        # sizes that no memory holds
        (lambda: npconv.conv2d(X, W, padding=2**31), ValueError, "conv2d: padding is 2147483648"),
        (lambda: npconv.conv2d(X, W, padding=2**70), ValueError, "conv2d: padding is"),
        (lambda: npconv.conv2d(X, W, padding=2**31 - 1), ValueError, "conv2d: the padded input would have more than"),
        (lambda: npconv.conv2d(X, W, dilation=2**31 - 1), ValueError, "conv2d: the window spans"),
        (lambda: npconv.conv2d(X, W, padding=2**24), MemoryError, ""),
        (lambda: npconv.max_pool2d(X, 2**31 - 1), ValueError, "max_pool2d: "),
        (lambda: npconv.max_pool2d(X, 2**27, 1, 2**26), ValueError, "a window must span fewer than"),
        (lambda: npconv.max_pool2d(X, 2, 1, 1, 2**30), ValueError, "max_pool2d: the window spans"),
        (lambda: npconv.conv_transpose2d(X[:, :, :1, :1], FAR, None, 1, D // 2, 0, 1, D), MemoryError, ""),
        (
            lambda: npconv.conv_transpose2d_backward(
                X[:, :1, :1, :1], X[:, :, :1, :1], FAR, 1, D // 2, 0, 1, D, needs=(False, True, False)
            ),
            MemoryError,
            "",
        ),
        (
            lambda: npconv.max_pool2d_backward(np.ones((1, 2, 2)), np.ones((1, 2, 2), int), (1, 2**20, 2**28)),
            MemoryError,
            "",
        ),
        (lambda: npconv.col2im(np.ones((1, 1)), (2**30, 2**30, 2**30, 1), 1, 1), ValueError, "col2im: the"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error or error is MemoryError
    assert re.search(message, str(caught.value)), str(caught.value)


def test_the_compiled_module_guards_its_memory() -> None:
    """Even called directly with what the gate would never pass, it raises rather than read beyond an array."""
    core = npconv._core
    one, pad = (1, 1), (0, 0, 0, 0)
    with pytest.raises(TypeError, match="C-contiguous"):
        core.conv2d(X[:, :, ::2], W, None, one, pad, one, 1, 0, False)
    with pytest.raises(TypeError, match="C-contiguous"):
        core.conv2d(X, W.astype(np.float64), None, one, pad, one, 1, 0, False)
    with pytest.raises(TypeError, match="float32 or float64"):
        core.conv2d(X.astype(int), W, None, one, pad, one, 1, 0, False)
    with pytest.raises(ValueError, match="dy has shape"):
        core.conv2d_backward(X, X, W, one, pad, one, 1, (True, True, True), 0)
    with pytest.raises(ValueError, match="inner sizes"):
        core.gemm(np.ones((2, 3)), np.ones((4, 5)), None, False, False)
    with pytest.raises(ValueError, match="differ in size"):
        core.relu_backward(X, W)
    with pytest.raises(ValueError, match="keeps 1 arrays of it and has 2 numbers"):
        core.momentum_update([B], [B], [], [0.1, 0.9])
    with pytest.raises(ValueError, match="every parameter has a gradient"):
        core.sgd_update([B, B], [B], [], [0.1])
    first, second = np.ones(3), np.ones(3)
    with pytest.raises(ValueError, match="sizes differ"):
        core.momentum_update([first, second], [first, second], [np.ones(3), np.ones(2)], [0.1, 0.9])
    np.testing.assert_array_equal(first, 1)  # not even what comes before has been changed
