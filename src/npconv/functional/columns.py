"""The pixels under each place of a filter, laid side by side, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import Array, IntOrPair, as_int, as_pair, as_shape, finish, promote, require_axes


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
