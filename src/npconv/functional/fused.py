"""Neighbouring layers in one pass: convolution and ReLU, and max pooling behind them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    IntOrPair,
    Needs,
    Padding,
    as_bias,
    as_dtype,
    as_needs,
    finish,
    finish_gradients,
    geometry_of,
    promote,
    require_axes,
    windows_of,
)
from npconv.functional.convolution import convolve, gradient_of_all, used, used_taps

_POOL_NAMES = "pool_stride", "pool_padding", "pool_dilation"


def conv2d_relu(
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
    """ReLU of a convolution, which is applied as the sums leave the registers: the result is written only once.

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm
        As `conv2d` has them.

    Returns
    -------
    ndarray, shape of conv2d's result
        Bitwise ``relu(conv2d(x, ...))``.  (float16 is rounded only at the end.)  Its gradients are those of the two:
        ``conv2d_backward(relu_backward(dy, y), x, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`.
    """
    geometry = stride, padding, dilation, groups
    return convolve("conv2d_relu", x, weight, bias, geometry, padding_mode, algorithm, relu=True)


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
    return_taps: bool = True,
) -> tuple[Array, Array | None]:
    """Max pooling of ReLU of a convolution, a few images at a time: what is between them stays in the cache.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
    weight, bias, stride, padding, dilation, groups
        As `conv2d` has them.
    kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        As `max_pool2d` has them.
    return_taps : bool
        False: the taps, which only the backward pass needs, are not computed; None stands for them.

    Returns
    -------
    (y, taps) : ndarrays, shapes (N, K, PH, PW) and (N, K, PH, ceil(PW/4))
        y is bitwise ``max_pool2d(relu(conv2d(x, ...)), ...)``, but 0 for a window without a pixel. (float16 is rounded
        only at the end.) Where in its window each maximum lies is said more briefly than by the indices of
        `max_pool2d`, which would take as much memory as y: each int32 of `taps` holds one byte for each of four windows
        in a row, the first the lowest. It is the place in the window, row by row, or 255 where y is 0: there ReLU lets
        no gradient through.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` and `max_pool2d`; also if a window has more than 254 pixels.
    """
    op = "conv2d_relu_max_pool2d"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    require_axes(op, "x", x, "(N, C, H, W)", 4)
    stride, pad, dilation, groups = geometry_of(op, weight, stride, padding, dilation, groups)
    windows = windows_of(op, kernel_size, _POOL_NAMES, pool_stride, pool_padding, pool_dilation)
    bias = as_bias(op, bias, x.dtype)
    of_kernel, pad = used_taps(x, weight, stride, pad, dilation)
    geometry = stride, pad, dilation, groups
    y, taps = _core.conv2d_relu_max_pool2d(
        x, used(weight, of_kernel), bias, *geometry, *windows, bool(ceil_mode), bool(return_taps)
    )
    return finish(y, dtype), taps


def conv2d_relu_max_pool2d_backward(
    dy: ArrayLike,
    taps: ArrayLike,
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
    needs: Needs = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d_relu_max_pool2d`.

    Parameters
    ----------
    dy : array_like, shape (N, K, PH, PW)
        The gradient of the pooled result.
    taps : array_like of int32, shape (N, K, PH, ceil(PW/4))
        What came with that result.
    x, weight, stride, padding, dilation, groups, kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        As given to `conv2d_relu_max_pool2d`.
    needs : (bool, bool, bool)
        Which of the three gradients to compute. The first layer of a network has no use for dx.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of the shapes of x, of weight, and (K,)
        Bitwise what `max_pool2d_backward`, `relu_backward` and `conv2d_backward` return one after the other. None where
        `needs` is False.

    Raises
    ------
    TypeError, ValueError
        As `conv2d_relu_max_pool2d`; also if dy or taps do not have the shapes of its results, or taps are not int32.
        No gradient goes to a tap that the windows do not have.
    """
    op = "conv2d_relu_max_pool2d_backward"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    require_axes(op, "x", x, "(N, C, H, W)", 4)
    stride, pad, dilation, groups = geometry_of(op, weight, stride, padding, dilation, groups)
    windows = windows_of(op, kernel_size, _POOL_NAMES, pool_stride, pool_padding, pool_dilation)
    dy, taps = as_dtype(op, "dy", dy, x.dtype), np.asarray(taps)
    if taps.dtype != np.int32:
        raise TypeError(f"{op}: taps are {taps.dtype}; needed are the int32 taps of conv2d_relu_max_pool2d")
    taps = np.require(taps, requirements=["C", "A"])
    of_kernel, pad = used_taps(x, weight, stride, pad, dilation)
    geometry = stride, pad, dilation, groups
    dx, dweight, dbias = _core.conv2d_relu_max_pool2d_backward(
        dy, taps, x, used(weight, of_kernel), *geometry, *windows, bool(ceil_mode), as_needs(op, needs)
    )
    dweight = gradient_of_all(dweight, of_kernel, weight)
    return finish_gradients(dtype, dx, dweight, dbias)
