"""The operators: stateless functions on ndarrays.

This module is the gate. Whatever the caller passes is checked and brought into one form here, once: a common floating
dtype, C-contiguous, native byte order, four axes, pairs of ints. Then the compiled operator of the same name runs.

Two rules hold for all of them. The dtype of the result follows NumPy's promotion of the inputs (`x` and `weight` where
there are weights); float32 and float64 are native, float16 is computed in float32 and returned as float16. Inputs are
never written to, and results are new C-contiguous arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npconv import _core

__all__ = [
    "affine",
    "affine_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_relu_max_pool2d",
    "conv2d_relu_max_pool2d_backward",
    "conv_output_size",
    "im2col",
    "max_pool2d",
    "max_pool2d_backward",
    "relu",
    "relu_backward",
]

Array = NDArray[Any]
IntOrPair = SupportsIndex | Sequence[SupportsIndex]
Padding = IntOrPair | Sequence[Sequence[SupportsIndex]] | str
Needs = tuple[bool, bool, bool]

_F16, _F32, _F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
_I32, _I64 = np.dtype(np.int32), np.dtype(np.int64)
_ALGORITHMS = {"auto": 0, "gemm": 1, "winograd2": 2, "winograd4": 3}  # as in csrc/conv.hpp
_LIMIT = 2**31  # sizes stay below it, so that no sum or product of two overflows in C++


# ---- the gate: arrays ----


def _promote(op: str, names: tuple[str, ...], *arrays: ArrayLike) -> tuple[tuple[Array, ...], np.dtype[Any]]:
    """Return the arrays in the dtype to compute in, ready for the compiled code, and the dtype to return."""
    dtype = _core.ready_dtype(*arrays)
    if dtype is _F32 or dtype is _F64:  # nothing to do, and it is known at once: small networks are many small calls
        return cast("tuple[Array, ...]", arrays), dtype
    given = [np.asarray(a) for a in arrays]
    result = np.result_type(*(a.dtype for a in given))
    if result not in (_F16, _F32, _F64):
        text = ", ".join(f"{name} is {array.dtype}" for name, array in zip(names, given, strict=True))
        raise TypeError(f"{op}: {text}; needed is float32, float64 or float16 (convert with .astype(np.float32))")
    dtype = _F64 if result == _F64 else _F32
    return tuple(_cast(op, name, array, dtype) for name, array in zip(names, given, strict=True)), result


def _cast(op: str, name: str, array: ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Return the array in `dtype`, C-contiguous and aligned; a copy only where it is not so yet."""
    if _core.ready_dtype(array) is dtype:
        return cast(Array, array)
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{op}: {name} is {array.dtype}; needed are real numbers")
    return np.require(array, dtype, ["C", "A"])


def _cast_bias(op: str, bias: ArrayLike | None, dtype: np.dtype[Any]) -> Array | None:
    return None if bias is None else _cast(op, "bias", bias, dtype)


def _cast_indices(op: str, indices: Array, *dtypes: np.dtype[Any]) -> Array:
    """Return the indices of the forward pass in the first of the dtypes, or as they are if they have one of them."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices are {indices.dtype}; needed are the int64 indices of the forward pass")
    if _core.ready_dtype(indices) in dtypes:
        return indices
    return np.require(indices, indices.dtype if indices.dtype in dtypes else dtypes[0], ["C", "A"])


def _axes(op: str, name: str, array: Array, allowed: str, *counts: int) -> None:
    if array.ndim not in counts:
        raise ValueError(f"{op}: {name} has shape {array.shape}; needed is {allowed}")


def _images(op: str, name: str, array: Array) -> tuple[Array, bool]:
    """Return the array as (N, C, H, W), and whether it was a single image (C, H, W)."""
    if array.ndim == 4:
        return array, False
    _axes(op, name, array, "(N, C, H, W) or (C, H, W)", 3)
    return array[np.newaxis], True


def _finish(array: Array, dtype: np.dtype[Any], single: bool = False) -> Array:
    """Give a result the dtype and the number of axes that the caller expects."""
    if array.dtype is not dtype:
        array = array.astype(dtype, copy=False)
    return array[0] if single else array


# ---- the gate: numbers ----


def _int(op: str, name: str, value: Any, least: int | None = None) -> int:
    if type(value) is int and (least or 0) <= value < _LIMIT:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}; needed is an int") from None
    if abs(number) >= _LIMIT:
        raise ValueError(f"{op}: {name} is {number}; it must be below 2**31")
    if least is not None and number < least:
        raise ValueError(f"{op}: {name} is {number}; it must be at least {least}")
    return number


def _pair(op: str, name: str, value: Any) -> tuple[int, int]:
    """Return (vertical, horizontal) for an int or a pair."""
    if type(value) is int and 0 <= value < _LIMIT:
        return value, value
    if type(value) is tuple and len(value) == 2:
        return _int(op, name, value[0]), _int(op, name, value[1])
    if np.ndim(value) > 0 and not isinstance(value, (str, bytes)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} is {value!r}; needed is an int or a pair (vertical, horizontal)")
        return _int(op, name, value[0]), _int(op, name, value[1])
    try:
        number = _int(op, name, value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}; needed is an int or a pair (vertical, horizontal)") from None
    return number, number


def _padding(
    op: str, padding: Any, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right); `kernel` ends in height and width."""
    if type(padding) is int and 0 <= padding < _LIMIT:
        return padding, padding, padding, padding
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise ValueError(
                f"{op}: padding is {padding!r}; needed is an int, a pair, ((top, bottom), (left, right)), "
                "'valid' or 'same'"
            )
        if stride != (1, 1):
            raise ValueError(f"{op}: padding='same' needs stride 1, stride is {stride}")
        # What is left over of an odd total goes to the bottom and to the right, as in PyTorch.
        total_h, total_w = dilation[0] * (kernel[-2] - 1), dilation[1] * (kernel[-1] - 1)
        return total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2
    if isinstance(padding, (Sequence, np.ndarray)) and len(padding) == 2 and np.ndim(padding[0]) == 1:
        if np.ndim(padding[1]) != 1:
            raise ValueError(f"{op}: padding is {padding!r}; needed is ((top, bottom), (left, right))")
        top, bottom = _pair(op, "padding", padding[0])
        left, right = _pair(op, "padding", padding[1])
        return top, bottom, left, right
    vertical, horizontal = _pair(op, "padding", padding)
    return vertical, vertical, horizontal, horizontal


def _shape(op: str, name: str, shape: Any, *counts: int) -> tuple[int, ...]:
    try:
        sizes = tuple(_int(op, name, size) for size in shape)
    except TypeError:
        raise TypeError(f"{op}: {name} is {shape!r}; needed is a tuple of ints") from None
    if len(sizes) not in counts or min(sizes) < 0:
        raise ValueError(f"{op}: {name} is {shape!r}; needed is {' or '.join(map(str, counts))} sizes")
    return sizes


def _needs(op: str, needs: Any) -> tuple[bool, bool, bool]:
    try:
        first, second, third = needs
    except (TypeError, ValueError):
        raise ValueError(f"{op}: needs is {needs!r}; needed are three bools, for dx, dweight and dbias") from None
    return bool(first), bool(second), bool(third)


def _geometry(
    op: str, weight: Array, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]:
    """Return the numbers of a convolution with these weights: stride, padding, dilation and groups."""
    _axes(op, "weight", weight, "(K, C / groups, KH, KW)", 4)
    stride, dilation = _pair(op, "stride", stride), _pair(op, "dilation", dilation)
    return stride, _padding(op, padding, weight.shape, stride, dilation), dilation, _int(op, "groups", groups)


def _windows(
    op: str, kernel_size: Any, names: tuple[str, str, str], stride: Any, padding: Any, dilation: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the numbers of a pooling: kernel size, and stride, padding and dilation, which go by these names."""
    kernel = _pair(op, "kernel_size", kernel_size)
    return (
        kernel,
        kernel if stride is None else _pair(op, names[0], stride),
        _pair(op, names[1], padding),
        _pair(op, names[2], dilation),
    )


# ---- convolution ----


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Array:
    """Two-dimensional convolution (cross-correlation, as in every deep learning library).

    ``y[n, k, i, j] = bias[k] + sum over c, r, s of
    x[n, c, i*stride + r*dilation - pad, j*stride + s*dilation - pad] * weight[k, c, r, s]``

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    weight : array_like, shape (K, C / groups, KH, KW)
    bias : array_like, shape (K,), optional
    stride, dilation : int or (int, int)
        In pixels, vertical and horizontal.
    padding : int, (int, int), ((top, bottom), (left, right)), "valid" or "same"
        Zeros around the image, in pixels. "same" (stride 1 only) keeps the image size; an odd pixel goes to the bottom
        and the right, as in PyTorch.
    groups : int
        Output channels see only the input channels of their own group.
    padding_mode : "zeros"
    algorithm : "auto", "gemm", "winograd2" or "winograd4"
        "gemm" is the implicit matrix product, which never makes the im2col matrix. The other two are Winograd's
        algorithm [1]_ in output tiles of 2x2 and of 4x4 pixels, for 3x3 kernels of stride and dilation 1: 2.25 and 4
        times fewer multiplications. "auto" takes what is expected to be the fastest. In float32 the largest error, over
        the root mean square of the result, is below 5e-6, with "winograd4" below 5e-5; an infinity or a NaN in x may
        spoil the whole tile with Winograd's algorithm, and not only the pixels that see it.

    Returns
    -------
    ndarray, shape (N, K, OH, OW) or (K, OH, OW)
        ``OH = (H + pad_top + pad_bottom - dilation*(KH - 1) - 1) // stride + 1``, OW alike. Bitwise the same for any
        number of threads.

    Raises
    ------
    TypeError
        If no input is floating point, or one is complex or an object array; if an int is none.
    ValueError
        If shapes and arguments do not fit together, or the result would have no pixel; if `algorithm` cannot compute
        this convolution.

    References
    ----------
    .. [1] A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
    """
    op = "conv2d"
    _zeros(op, padding_mode)
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    x, single = _images(op, "x", x)
    geometry = _geometry(op, weight, stride, padding, dilation, groups)
    chosen = _algorithm(op, algorithm, weight, geometry)
    return _finish(_core.conv2d(x, weight, _cast_bias(op, bias, x.dtype), *geometry, chosen), dtype, single)


def conv2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    needs: Needs = (True, True, True),
    algorithm: str = "auto",
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d`.

    Parameters
    ----------
    dy : array_like, shape of conv2d's result
        Gradient of the loss with respect to it.
    x, weight, stride, padding, dilation, groups, padding_mode, algorithm
        As given to `conv2d`.
    needs : (bool, bool, bool)
        Which of the three gradients to compute. The first layer of a network has no use for dx.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of the shapes of x, of weight, and (K,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`; also if dy does not have the shape of its result.
    """
    op = "conv2d_backward"
    _zeros(op, padding_mode)
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    x, single = _images(op, "x", x)
    dy, single_dy = _images(op, "dy", _cast(op, "dy", dy, x.dtype))
    if single != single_dy:
        raise ValueError(f"{op}: of x and dy one is a single image and the other a batch")
    geometry = _geometry(op, weight, stride, padding, dilation, groups)
    chosen = _algorithm(op, algorithm, weight, geometry)
    dx, dweight, dbias = _core.conv2d_backward(dy, x, weight, *geometry, _needs(op, needs), chosen)
    return (
        None if dx is None else _finish(dx, dtype, single),
        None if dweight is None else _finish(dweight, dtype),
        None if dbias is None else _finish(dbias, dtype),
    )


def _zeros(op: str, padding_mode: str) -> None:
    if padding_mode != "zeros":
        raise ValueError(f"{op}: padding_mode is {padding_mode!r}; available is 'zeros' (np.pad offers others)")


def _algorithm(op: str, algorithm: str, weight: Array, geometry: tuple[Any, ...]) -> int:
    """Return the number of the algorithm in the compiled code; ValueError if it cannot compute this convolution."""
    number = _ALGORITHMS.get(algorithm)
    if number is None:
        raise ValueError(f"{op}: algorithm is {algorithm!r}; available are {', '.join(map(repr, _ALGORITHMS))}")
    if number > 1 and (weight.shape[2:] != (3, 3) or geometry[0] != (1, 1) or geometry[2] != (1, 1)):
        raise ValueError(
            f"{op}: algorithm is {algorithm!r}, for 3x3 kernels with stride and dilation 1; the kernel is "
            f"{weight.shape[2]}x{weight.shape[3]}, stride {geometry[0]}, dilation {geometry[2]}: use 'auto' or 'gemm'"
        )
    return number


def conv_output_size(
    input_size: SupportsIndex,
    filter_size: SupportsIndex,
    stride: SupportsIndex = 1,
    pad: SupportsIndex = 0,
    dilation: SupportsIndex = 1,
) -> int:
    """Number of places where a filter fits along one axis.

    ``(input_size + 2*pad - dilation*(filter_size - 1) - 1) // stride + 1``

    Raises
    ------
    ValueError
        If the filter does not fit at all, or an argument is out of range.
    """
    op = "conv_output_size"
    return _core.conv_output_size(
        _int(op, "input_size", input_size, 1),
        _int(op, "filter_size", filter_size, 1),
        _int(op, "stride", stride, 1),
        _int(op, "pad", pad, 0),
        _int(op, "dilation", dilation, 1),
    )


def im2col(
    input_data: ArrayLike, filter_h: SupportsIndex, filter_w: SupportsIndex, stride: IntOrPair = 1, pad: IntOrPair = 0
) -> Array:
    """Lay the pixels under each place of a filter side by side, in the book's layout.

    Parameters
    ----------
    input_data : array_like, shape (N, C, H, W)
    filter_h, filter_w : int
    stride, pad : int or (int, int)
        The padding is zeros.

    Returns
    -------
    ndarray, shape (N*OH*OW, C*filter_h*filter_w)

    Raises
    ------
    TypeError, ValueError
        If the input is not floating point, has not four axes, or the filter does not fit.

    Notes
    -----
    `conv2d` never makes this matrix; it is here to be looked at, and for code written after *Deep Learning from
    Scratch* (K. Saitoh), chapter 7.
    """
    op = "im2col"
    (x,), dtype = _promote(op, ("input_data",), input_data)
    _axes(op, "input_data", x, "(N, C, H, W)", 4)
    kernel = _int(op, "filter_h", filter_h, 1), _int(op, "filter_w", filter_w, 1)
    pad_h, pad_w = _pair(op, "pad", pad)
    return _finish(_core.im2col(x, kernel, _pair(op, "stride", stride), (pad_h, pad_h, pad_w, pad_w)), dtype)


def col2im(
    col: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    filter_h: SupportsIndex,
    filter_w: SupportsIndex,
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
) -> Array:
    """Add every element of an im2col matrix to the pixel it was taken from: the transpose of `im2col`.

    Parameters
    ----------
    col : array_like, shape (N*OH*OW, C*filter_h*filter_w)
    input_shape : (N, C, H, W)
    filter_h, filter_w, stride, pad
        As given to `im2col`.

    Returns
    -------
    ndarray, shape (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        If col is not floating point, or does not have the shape that `im2col` gives for these arguments.
    """
    op = "col2im"
    (col,), dtype = _promote(op, ("col",), col)
    kernel = _int(op, "filter_h", filter_h, 1), _int(op, "filter_w", filter_w, 1)
    pad_h, pad_w = _pair(op, "pad", pad)
    shape = _shape(op, "input_shape", input_shape, 4)
    return _finish(_core.col2im(col, shape, kernel, _pair(op, "stride", stride), (pad_h, pad_h, pad_w, pad_w)), dtype)


# ---- pooling ----


def max_pool2d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    kernel_size, dilation : int or (int, int)
    stride : int or (int, int), optional
        The kernel size if it is not given.
    padding : int or (int, int)
        Minus infinity around the image; at most half of kernel_size, as in PyTorch.
    ceil_mode : bool
        Whether a last window that only partly fits counts. It must start inside the image or the padding before it.
    return_indices : bool
        Whether to return also where each maximum lies.

    Returns
    -------
    y : ndarray, shape (N, C, OH, OW) or (C, OH, OW)
    indices : ndarray of int64, shape of y
        Only if `return_indices`: positions in the flat H*W plane. Of equal values the first in row-major order
        counts; a NaN beats every number, and of several the last counts, as in PyTorch. -1 where dilation puts every
        pixel of a window into the padding (y is minus infinity there).

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, has no pixels, or the window does not fit.
    """
    op = "max_pool2d"
    (x,), dtype = _promote(op, ("x",), x)
    x, single = _images(op, "x", x)
    windows = _windows(op, kernel_size, ("stride", "padding", "dilation"), stride, padding, dilation)
    y, indices = _core.max_pool2d(x, *windows, bool(ceil_mode), bool(return_indices))
    y = _finish(y, dtype, single)
    return (y, indices[0] if single else indices) if return_indices else y


def max_pool2d_backward(dy: ArrayLike, indices: ArrayLike, input_shape: Sequence[SupportsIndex]) -> Array:
    """Gradient of `max_pool2d`: every dy goes to the pixel that was the maximum.

    Parameters
    ----------
    dy : array_like, shape (N, C, OH, OW) or (C, OH, OW)
    indices : array_like of int, shape of dy
        As returned by `max_pool2d`.
    input_shape : tuple of int
        The shape of max_pool2d's x.

    Returns
    -------
    ndarray, shape `input_shape`

    Raises
    ------
    TypeError
        If dy is not floating point or indices are not integers.
    ValueError
        If the shapes do not fit together, or an index lies outside its plane (-1 is no pixel, and is left out).
    """
    op = "max_pool2d_backward"
    (dy,), dtype = _promote(op, ("dy",), dy)
    indices = _cast_indices(op, np.asarray(indices), _I64, _I32)
    if indices.shape != dy.shape:
        raise ValueError(f"{op}: indices have shape {indices.shape}, dy has {dy.shape}; needed is the same shape")
    shape = _shape(op, "input_shape", input_shape, 3, 4)
    dy, single = _images(op, "dy", dy)
    if len(shape) != (3 if single else 4) or shape[:-2] != (dy.shape[1:2] if single else dy.shape[:2]):
        raise ValueError(f"{op}: input_shape is {shape}, which does not fit dy, an array of shape {dy.shape}")
    dx = _core.max_pool2d_backward(dy, indices[np.newaxis] if single else indices, shape[-2:])
    return _finish(dx, dtype, single)


# ---- convolution, ReLU and max pooling in one ----

_POOL_NAMES = "pool_stride", "pool_padding", "pool_dilation"


def conv2d_relu_max_pool2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    kernel_size: IntOrPair,
    pool_stride: IntOrPair | None = None,
    pool_padding: IntOrPair = 0,
    pool_dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Max pooling of ReLU of a convolution, a few images at a time: what is between them stays in the cache.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
    weight, bias, stride, padding, dilation, groups
        As `conv2d` has them.
    kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        As `max_pool2d` has them.

    Returns
    -------
    (y, indices) : ndarrays, shape (N, K, PH, PW)
        y is bitwise ``max_pool2d(relu(conv2d(x, ...)), ...)``, but 0 for a window without a pixel. Indices are those
        of `max_pool2d` in int32, but -1 where y is 0: there ReLU lets no gradient through. (float16 is rounded only at
        the end.)

    Raises
    ------
    TypeError, ValueError
        As `conv2d` and `max_pool2d`.
    """
    op = "conv2d_relu_max_pool2d"
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    _axes(op, "x", x, "(N, C, H, W)", 4)
    geometry = _geometry(op, weight, stride, padding, dilation, groups)
    windows = _windows(op, kernel_size, _POOL_NAMES, pool_stride, pool_padding, pool_dilation)
    bias = _cast_bias(op, bias, x.dtype)
    y, indices = _core.conv2d_relu_max_pool2d(x, weight, bias, *geometry, *windows, bool(ceil_mode))
    return _finish(y, dtype), indices


def conv2d_relu_max_pool2d_backward(
    dy: ArrayLike,
    indices: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    kernel_size: IntOrPair,
    pool_stride: IntOrPair | None = None,
    pool_padding: IntOrPair = 0,
    pool_dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Gradients of `conv2d_relu_max_pool2d` for the filters: those of a first layer, which has no use for dx.

    Parameters
    ----------
    dy, indices : array_like, shape (N, K, PH, PW)
        The gradient of the pooled result, and the indices that came with it.
    x, weight, stride, padding, dilation, groups, kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        As given to `conv2d_relu_max_pool2d`.

    Returns
    -------
    (dweight, dbias) : ndarrays of the shapes of weight, and (K,)
        Bitwise what `max_pool2d_backward`, `relu_backward` and `conv2d_backward` return one after the other.

    Raises
    ------
    TypeError, ValueError
        As `conv2d_relu_max_pool2d`; also if dy or indices do not have the shape of its result.
    """
    op = "conv2d_relu_max_pool2d_backward"
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    _axes(op, "x", x, "(N, C, H, W)", 4)
    geometry = _geometry(op, weight, stride, padding, dilation, groups)
    windows = _windows(op, kernel_size, _POOL_NAMES, pool_stride, pool_padding, pool_dilation)
    dy, indices = _cast(op, "dy", dy, x.dtype), _cast_indices(op, np.asarray(indices), _I32)
    dweight, dbias = _core.conv2d_relu_max_pool2d_backward(dy, indices, x, weight, *geometry, *windows, bool(ceil_mode))
    return _finish(dweight, dtype), _finish(dbias, dtype)


# ---- fully connected layers, activations ----


def affine(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Fully connected layer, ``x @ weight + bias``.

    Parameters
    ----------
    x : array_like, shape (N, D)
    weight : array_like, shape (D, M)
    bias : array_like, shape (M,), optional

    Returns
    -------
    ndarray, shape (N, M)

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "affine"
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    _axes(op, "x", x, "(N, D)", 2)
    _axes(op, "weight", weight, "(D, M)", 2)
    bias = _cast_bias(op, bias, x.dtype)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{op}: x has {x.shape[1]} columns, weight has {weight.shape[0]} rows; needed is the same")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"{op}: bias has shape {bias.shape}; needed is {weight.shape[1:]}")
    return _finish(_core.gemm(x, weight, bias, False, False), dtype)


def affine_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, needs: Needs = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `affine`: ``dx = dy @ weight.T``, ``dweight = x.T @ dy``, ``dbias = dy.sum(axis=0)``.

    Parameters
    ----------
    dy : array_like, shape (N, M)
    x : array_like, shape (N, D)
    weight : array_like, shape (D, M)
    needs : (bool, bool, bool)
        Which of the three to compute.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of shapes (N, D), (D, M), (M,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "affine_backward"
    (x, weight), dtype = _promote(op, ("x", "weight"), x, weight)
    dy = _cast(op, "dy", dy, x.dtype)
    _axes(op, "x", x, "(N, D)", 2)
    _axes(op, "weight", weight, "(D, M)", 2)
    if x.shape[1] != weight.shape[0] or dy.shape != (x.shape[0], weight.shape[1]):
        raise ValueError(
            f"{op}: dy has shape {dy.shape}, x {x.shape}, weight {weight.shape}; needed is (N, M), (N, D), (D, M)"
        )
    need_dx, need_dweight, need_dbias = _needs(op, needs)
    return (
        _finish(_core.gemm(dy, weight, None, False, True), dtype) if need_dx else None,
        _finish(_core.gemm(x, dy, None, True, False), dtype) if need_dweight else None,
        _finish(dy.sum(axis=0), dtype) if need_dbias else None,
    )


def relu(x: ArrayLike) -> Array:
    """Rectified linear unit: 0 where ``x <= 0``, else x (a NaN passes).

    Parameters
    ----------
    x : array_like of any shape

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    TypeError
        If x is not floating point.
    """
    (x,), dtype = _promote("relu", ("x",), x)
    return _finish(_core.relu(x), dtype)


def relu_backward(dy: ArrayLike, y: ArrayLike) -> Array:
    """Gradient of `relu`: 0 where ``y <= 0``, else dy.

    Parameters
    ----------
    dy : array_like of any shape
    y : array_like, shape of dy
        The result of `relu` (its argument serves as well).

    Returns
    -------
    ndarray, shape of dy

    Raises
    ------
    TypeError, ValueError
        If y is not floating point, or the shapes differ.
    """
    op = "relu_backward"
    (y,), dtype = _promote(op, ("y",), y)
    dy = _cast(op, "dy", dy, y.dtype)
    if dy.shape != y.shape:
        raise ValueError(f"{op}: dy has shape {dy.shape}, y has {y.shape}; needed is the same shape")
    return _finish(_core.relu_backward(dy, y), dtype)
