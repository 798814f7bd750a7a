"""The pixels under each place of a filter, laid side by side, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    IntOrPair,
    Padding,
    as_images,
    as_int,
    as_padding,
    as_pair,
    as_shape,
    finish,
    promote,
    require_axes,
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
    (x,), dtype = promote(op, ("input_data",), input_data)
    require_axes(op, "input_data", x, "(N, C, H, W)", 4)
    kernel = as_int(op, "filter_h", filter_h, 1), as_int(op, "filter_w", filter_w, 1)
    pad_h, pad_w = as_pair(op, "pad", pad)
    return finish(_core.im2col(x, kernel, as_pair(op, "stride", stride), (pad_h, pad_h, pad_w, pad_w)), dtype)


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
    (col,), dtype = promote(op, ("col",), col)
    kernel = as_int(op, "filter_h", filter_h, 1), as_int(op, "filter_w", filter_w, 1)
    pad_h, pad_w = as_pair(op, "pad", pad)
    shape = as_shape(op, "input_shape", input_shape, 4)
    return finish(_core.col2im(col, shape, kernel, as_pair(op, "stride", stride), (pad_h, pad_h, pad_w, pad_w)), dtype)


def unfold(
    x: ArrayLike,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: Padding = 0,
    stride: IntOrPair = 1,
) -> Array:
    """The pixels under each place of a window, in PyTorch's layout: a column per place.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    kernel_size, dilation, stride : int or (int, int)
    padding : int, (int, int), ((top, bottom), (left, right)), "valid" or "same"
        Zeros around the image.

    Returns
    -------
    ndarray, shape (N, C*KH*KW, L) or (C*KH*KW, L)
        L is the number of places, OH*OW.

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, is no image, or the window does not fit.
    """
    op = "unfold"
    (x,), dtype = promote(op, ("x",), x)
    x, single = as_images(op, "x", x)
    return finish(_core.unfold(x, *_places(op, kernel_size, dilation, padding, stride)), dtype, single)


def fold(
    x: ArrayLike,
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: Padding = 0,
    stride: IntOrPair = 1,
) -> Array:
    """Add every element of `unfold`'s result to the pixel it was taken from: the transpose of `unfold`.

    Parameters
    ----------
    x : array_like, shape (N, C*KH*KW, L) or (C*KH*KW, L)
    output_size : int or (int, int)
        Height and width of the image.
    kernel_size, dilation, padding, stride
        As given to `unfold`.

    Returns
    -------
    ndarray, shape (N, C, H, W) or (C, H, W)

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, or does not have the shape that `unfold` gives for these arguments.
    """
    op = "fold"
    (x,), dtype = promote(op, ("x",), x)
    require_axes(op, "x", x, "(N, C*KH*KW, L) or (C*KH*KW, L)", 2, 3)
    single = x.ndim == 2
    size = as_pair(op, "output_size", output_size)
    places = _places(op, kernel_size, dilation, padding, stride)
    return finish(_core.fold(x[np.newaxis] if single else x, size, *places), dtype, single)


def _places(
    op: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Return the numbers of a window's places: kernel size, stride, padding and dilation."""
    kernel, step = as_pair(op, "kernel_size", kernel_size), as_pair(op, "stride", stride)
    spread = as_pair(op, "dilation", dilation)
    return kernel, step, as_padding(op, padding, kernel, step, spread), spread
