"""Convolution and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    IntOrPair,
    Needs,
    Padding,
    as_bias,
    as_gradient,
    as_images,
    as_int,
    as_needs,
    as_pair,
    finish,
    finish_gradients,
    geometry_of,
    promote,
)

_ALGORITHMS = {"auto": 0, "gemm": 1, "winograd2": 2, "winograd4": 3}  # as in csrc/conv.hpp
_MOST_DILATION = 32  # of Winograd's algorithm; as in csrc/winograd_form.cpp
_PADDING_MODES = {"zeros": None, "reflect": 0, "replicate": 1, "circular": 2}  # as in csrc/pad.hpp
_NO_PADDING = 0, 0, 0, 0


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
        Pixels around the image. "same" (stride 1 only) keeps the image size; an odd pixel goes to the bottom
        and the right, as in PyTorch.
    groups : int
        Output channels see only the input channels of their own group.
    padding_mode : "zeros", "reflect", "replicate" or "circular"
        What stands in the padding: zeros; the image reflected about its first and last pixels, which are not repeated;
        its edge; or the image once more, as if it went round. As in PyTorch, "reflect" takes less padding than the
        image's size, "circular" at most that.
    algorithm : "auto", "gemm", "winograd2" or "winograd4"
        "gemm" is the implicit matrix product, which never makes the im2col matrix. The other two are Winograd's
        algorithm [1]_ in output tiles of 2x2 and of 4x4 pixels, for 3x3 kernels of stride 1 and dilations up to 32:
        2.25 and 4 times fewer multiplications. "auto" takes what is expected to be the fastest. That may be Winograd's
        algorithm, too: for kernels of 2x2 to 5x5 from 12 input and 16 output channels on; with a stride S for larger
        ones, and from 12/S**2 input channels on; and, along columns alone, for 3x3 kernels of stride 1 with up to 16
        input and at least 8 output channels. In float32 the largest error, over the root mean square of the result, is
        below 5e-6, with "winograd4" and "auto" below 5e-5; an infinity or a NaN in x may spoil the whole tile with
        Winograd's algorithm, and not only the pixels that see it, and so may values near the end of float32's range
        (from 1e37 on).

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
    return convolve("conv2d", x, weight, bias, (stride, padding, dilation, groups), padding_mode, algorithm, relu=False)


def convolve(
    op: str,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    geometry: tuple[IntOrPair, Padding, IntOrPair, int],
    padding_mode: str,
    algorithm: str,
    relu: bool,
) -> Array:
    """Convolution, or ReLU of it, on behalf of the operator `op`."""
    mode = _padding_mode(op, padding_mode)
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    stride, pad, dilation, groups = geometry_of(op, weight, *geometry)
    chosen = _algorithm(op, algorithm, weight, (stride, pad, dilation, groups))
    if mode is not None:
        x, pad = _core.pad(op, x, pad, mode), _NO_PADDING
    if dilation != (1, 1):
        taps, pad = used_taps(x, weight, stride, pad, dilation)
        weight = used(weight, taps)
    y = _core.conv2d(x, weight, as_bias(op, bias, x.dtype), stride, pad, dilation, groups, chosen, relu)
    return finish(y, dtype, single)


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
    mode = _padding_mode(op, padding_mode)
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    dy = as_gradient(op, dy, x.dtype, single)
    stride, pad, dilation, groups = geometry = geometry_of(op, weight, stride, padding, dilation, groups)
    chosen = _algorithm(op, algorithm, weight, geometry)
    pads = pad
    if mode is not None:
        x, pad = _core.pad(op, x, pad, mode), _NO_PADDING
    taps, pad = used_taps(x, weight, stride, pad, dilation)
    dx, dweight, dbias = _core.conv2d_backward(
        dy, x, used(weight, taps), stride, pad, dilation, groups, as_needs(op, needs), chosen
    )
    dweight = gradient_of_all(dweight, taps, weight)
    if dx is not None and mode is not None:
        dx = _core.pad_backward(op, dx, pads, mode)
    return finish_gradients(dtype, dx, dweight, dbias, single)


Taps = tuple[slice, slice] | None  # rows and columns of a kernel; None: all


def used_taps(
    x: Array, weight: Array, stride: tuple[int, int], pad: tuple[int, int, int, int], dilation: tuple[int, int]
) -> tuple[Taps, tuple[int, int, int, int]]:
    """Return which taps of a kernel meet a pixel anywhere, and the padding that is left without the others.

    A wide dilation may place most of them in the padding: of 3x3 taps on an image smaller than the dilation only the
    middle one meets it, and the convolution is one of 1x1.
    """
    sizes, kernel = (height, width), (kh, kw) = x.shape[2:], weight.shape[2:]
    if dilation[0] * (kh - 1) + stride[0] <= height and dilation[1] * (kw - 1) + stride[1] <= width:
        return None, pad  # a window is smaller than the image
    if dilation == (1, 1) or min(*sizes, *kernel, *stride, *dilation, min(pad) + 1) < 1:
        return None, pad  # large kernels are rare, and the rest is refused
    v, h = map(_used_along, sizes, kernel, stride, dilation, pad[::2], pad[1::2])
    if v is None or h is None or (v[0], h[0]) == tuple(map(slice, (0, 0), kernel)):
        return None, pad
    return (v[0], h[0]), (*v[1:], *h[1:])


def _used_along(
    n: int, kernel: int, stride: int, dilation: int, before: int, behind: int
) -> tuple[slice, int, int] | None:
    """Return the same along one axis of n pixels: taps, padding before and behind; None if there is no result."""
    reach = (n + before + behind - dilation * (kernel - 1) - 1) // stride * stride  # from the first result to the last
    if reach < 0:
        return None
    last = min((n - 1 + before) // dilation, kernel - 1)  # that the first result has in the image
    first = -(-max(before - reach, 0) // dilation)  # that the last one has, unless an image would have to be cut
    first = min(first, before // dilation, last)
    before -= first * dilation
    behind = reach + 1 + dilation * (last - first) - n - before
    if behind < 0:  # then more taps, or there would be more results
        more = min(-(behind // dilation), kernel - 1 - last)
        last, behind = last + more, behind + more * dilation
    return slice(first, last + 1), before, max(behind, 0)


def used(weight: Array, taps: Taps) -> Array:
    """Return the weights of these taps."""
    return weight if taps is None else np.ascontiguousarray(weight[:, :, taps[0], taps[1]])


def gradient_of_all(dweight: Array | None, taps: Taps, weight: Array) -> Array | None:
    """Return the gradient of all weights, from that of these taps: it is zero for the others."""
    if dweight is None or taps is None:
        return dweight
    whole = np.zeros(weight.shape, dweight.dtype)
    whole[:, :, taps[0], taps[1]] = dweight
    return whole


def _padding_mode(op: str, padding_mode: str) -> int | None:
    """Return the number of the mode in the compiled code, None for zeros."""
    if not isinstance(padding_mode, str) or padding_mode not in _PADDING_MODES:
        modes = ", ".join(map(repr, _PADDING_MODES))
        raise ValueError(f"{op}: padding_mode is {padding_mode!r}; available are {modes}")
    return _PADDING_MODES[padding_mode]


def _algorithm(op: str, algorithm: str, weight: Array, geometry: tuple[Any, ...]) -> int:
    """Return the number of the algorithm in the compiled code; ValueError if it cannot compute this convolution."""
    number = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if number is None:
        raise ValueError(f"{op}: algorithm is {algorithm!r}; available are {', '.join(map(repr, _ALGORITHMS))}")
    stride, _, dilation, _ = geometry
    if number > 1 and (weight.shape[2:] != (3, 3) or stride != (1, 1) or max(dilation) > _MOST_DILATION):
        raise ValueError(
            f"{op}: algorithm is {algorithm!r}, for 3x3 kernels with stride 1 and dilation up to {_MOST_DILATION}; the "
            f"kernel is {weight.shape[2]}x{weight.shape[3]}, stride {stride}, dilation {dilation}: use 'auto' or 'gemm'"
        )
    return number


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | Sequence[Sequence[SupportsIndex]] = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Array:
    """Transposed convolution: the data gradient of `conv2d` as an operator of its own, which makes images larger.

    Every pixel of x is multiplied by the filters, and the products are added up where `conv2d` with the same arguments
    would have read from [1]_.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    weight : array_like, shape (C, K / groups, KH, KW)
        Input channels first, as in PyTorch.
    bias : array_like, shape (K,), optional
    stride, dilation : int or (int, int)
        In pixels of the result, vertical and horizontal.
    padding : int, (int, int) or ((top, bottom), (left, right))
        How many rows and columns at the edges of the result are left out.
    output_padding : int or (int, int)
        How many more there are at the bottom and the right; smaller than the stride or the dilation. It chooses among
        the sizes that `conv2d` maps to the same one.
    groups : int
        Output channels see only the input channels of their own group.

    Returns
    -------
    ndarray, shape (N, K, OH, OW) or (K, OH, OW)
        ``OH = (H - 1)*stride - pad_top - pad_bottom + dilation*(KH - 1) + output_padding + 1``, OW alike. Bitwise the
        same for any number of threads.

    Raises
    ------
    TypeError
        If no input is floating point, or one is complex or an object array; if an int is none.
    ValueError
        If shapes and arguments do not fit together, or the result would have no pixel.

    Notes
    -----
    This may be Winograd's algorithm: see `conv2d` about when, about its error, and about infinities and NaN.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    op = "conv_transpose2d"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    geometry = _transposed_geometry(op, weight, stride, padding, output_padding, dilation, groups)
    return finish(_core.conv_transpose2d(x, weight, as_bias(op, bias, x.dtype), *geometry), dtype, single)


def conv_transpose2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: IntOrPair | Sequence[Sequence[SupportsIndex]] = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    needs: Needs = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv_transpose2d`: dx is a convolution of dy.

    Parameters
    ----------
    dy : array_like, shape of conv_transpose2d's result
        Gradient of the loss with respect to it.
    x, weight, stride, padding, output_padding, groups, dilation
        As given to `conv_transpose2d`.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of the shapes of x, of weight, and (K,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        As `conv_transpose2d`; also if dy does not have the shape of its result.
    """
    op = "conv_transpose2d_backward"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    dy = as_gradient(op, dy, x.dtype, single)
    geometry = _transposed_geometry(op, weight, stride, padding, output_padding, dilation, groups)
    dx, dweight, dbias = _core.conv_transpose2d_backward(dy, x, weight, *geometry, as_needs(op, needs))
    return finish_gradients(dtype, dx, dweight, dbias, single)


def _transposed_geometry(
    op: str, weight: Array, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: Any
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int], tuple[int, int], int]:
    """Return the numbers of a transposed convolution: stride, padding, output padding, dilation and groups."""
    if isinstance(padding, str):
        raise ValueError(f"{op}: padding is {padding!r}; needed is an int, a pair or ((top, bottom), (left, right))")
    stride, pads, dilation, groups = geometry_of(op, weight, stride, padding, dilation, groups)
    return stride, pads, as_pair(op, "output_padding", output_padding), dilation, groups


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
        as_int(op, "input_size", input_size, 1),
        as_int(op, "filter_size", filter_size, 1),
        as_int(op, "stride", stride, 1),
        as_int(op, "pad", pad, 0),
        as_int(op, "dilation", dilation, 1),
    )
