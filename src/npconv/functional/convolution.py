"""Convolution and its gradients."""

from __future__ import annotations

from typing import Any, SupportsIndex

from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    IntOrPair,
    Needs,
    Padding,
    as_bias,
    as_dtype,
    as_images,
    as_int,
    as_needs,
    finish,
    geometry_of,
    promote,
)

_ALGORITHMS = {"auto": 0, "gemm": 1, "winograd2": 2, "winograd4": 3}  # as in csrc/conv.hpp


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
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    geometry = geometry_of(op, weight, stride, padding, dilation, groups)
    chosen = _algorithm(op, algorithm, weight, geometry)
    return finish(_core.conv2d(x, weight, as_bias(op, bias, x.dtype), *geometry, chosen), dtype, single)


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
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    x, single = as_images(op, "x", x)
    dy, single_dy = as_images(op, "dy", as_dtype(op, "dy", dy, x.dtype))
    if single != single_dy:
        raise ValueError(f"{op}: of x and dy one is a single image and the other a batch")
    geometry = geometry_of(op, weight, stride, padding, dilation, groups)
    chosen = _algorithm(op, algorithm, weight, geometry)
    dx, dweight, dbias = _core.conv2d_backward(dy, x, weight, *geometry, as_needs(op, needs), chosen)
    return (
        None if dx is None else finish(dx, dtype, single),
        None if dweight is None else finish(dweight, dtype),
        None if dbias is None else finish(dbias, dtype),
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
        as_int(op, "input_size", input_size, 1),
        as_int(op, "filter_size", filter_size, 1),
        as_int(op, "stride", stride, 1),
        as_int(op, "pad", pad, 0),
        as_int(op, "dilation", dilation, 1),
    )
