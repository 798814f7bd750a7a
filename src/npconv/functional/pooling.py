"""Pooling and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    I32,
    I64,
    Array,
    IntOrPair,
    as_images,
    as_indices,
    as_shape,
    finish,
    promote,
    windows_of,
)


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
    (x,), dtype = promote(op, ("x",), x)
    x, single = as_images(op, "x", x)
    windows = windows_of(op, kernel_size, ("stride", "padding", "dilation"), stride, padding, dilation)
    y, indices = _core.max_pool2d(x, *windows, bool(ceil_mode), bool(return_indices))
    y = finish(y, dtype, single)
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
    (dy,), dtype = promote(op, ("dy",), dy)
    indices = as_indices(op, np.asarray(indices), I64, I32)
    if indices.shape != dy.shape:
        raise ValueError(f"{op}: indices have shape {indices.shape}, dy has {dy.shape}; needed is the same shape")
    shape = as_shape(op, "input_shape", input_shape, 3, 4)
    dy, single = as_images(op, "dy", dy)
    if len(shape) != (3 if single else 4) or shape[:-2] != (dy.shape[1:2] if single else dy.shape[:2]):
        raise ValueError(f"{op}: input_shape is {shape}, which does not fit dy, an array of shape {dy.shape}")
    dx = _core.max_pool2d_backward(dy, indices[np.newaxis] if single else indices, shape[-2:])
    return finish(dx, dtype, single)
