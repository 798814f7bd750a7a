"""Pooling and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    IntOrPair,
    as_float,
    as_images,
    as_indices,
    as_pair,
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
    indices = as_indices(op, np.asarray(indices))
    if indices.shape != dy.shape:
        raise ValueError(f"{op}: indices have shape {indices.shape}, dy has {dy.shape}; needed is the same shape")
    dy, single, size = _gradient_of_pooling(op, dy, input_shape)
    dx = _core.max_pool2d_backward(dy, indices[np.newaxis] if single else indices, size)
    return finish(dx, dtype, single)


def max_unpool2d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    output_size: Sequence[SupportsIndex] | None = None,
) -> Array:
    """Put every value back where `max_pool2d` found it, among zeros.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    indices : array_like of int, shape of x
        Positions in the flat OH*OW plane, as returned by `max_pool2d`. Of several values for one pixel the last in
        row-major order stays.
    kernel_size, stride, padding
        As given to `max_pool2d`: they tell the size of its input, up to the pixels that no window reached.
    output_size : tuple of int, optional
        That size where it is another, as (OH, OW) or with the axes before them; less than a stride away.

    Returns
    -------
    ndarray, shape (N, C, OH, OW) or (C, OH, OW)
        ``OH = (H - 1)*stride - 2*padding + kernel_size`` unless `output_size` tells, OW alike.

    Raises
    ------
    TypeError
        If x is not floating point or indices are not integers.
    ValueError
        If the shapes do not fit together, or an index lies outside its plane.
    """
    op = "max_unpool2d"
    (x,), dtype = promote(op, ("x",), x)
    indices = as_indices(op, np.asarray(indices))
    if indices.shape != x.shape:
        raise ValueError(f"{op}: indices have shape {indices.shape}, x has {x.shape}; needed is the same shape")
    x, single = as_images(op, "x", x)
    kernel, step, pad, _ = windows_of(op, kernel_size, ("stride", "padding", "dilation"), stride, padding, 1)
    for name, pair, least in (("kernel_size", kernel, 1), ("stride", step, 1), ("padding", pad, 0)):
        if min(pair) < least:
            raise ValueError(f"{op}: {name} is {pair}; each value must be at least {least}")
    size = tuple((n - 1) * s - 2 * p + k for n, k, s, p in zip(x.shape[2:], kernel, step, pad, strict=True))
    if output_size is not None:
        wanted = as_shape(op, "output_size", output_size, 2, 3, 4)[-2:]
        if any(abs(w - n) >= s for w, n, s in zip(wanted, size, step, strict=True)):
            raise ValueError(
                f"{op}: output_size is {output_size!r}; for these windows its last two sizes must be less than the "
                f"stride {step} away from {size}"
            )
        size = wanted
    y = _core.max_unpool2d(x, indices[np.newaxis] if single else indices, size)
    return finish(y, dtype, single)


def max_unpool2d_backward(dy: ArrayLike, indices: ArrayLike, input_shape: Sequence[SupportsIndex]) -> Array:
    """Gradient of `max_unpool2d`: what lies in dy where every value was put.

    Parameters
    ----------
    dy : array_like, shape of max_unpool2d's result
    indices : array_like of int, shape `input_shape`
        As given to `max_unpool2d`.
    input_shape : tuple of int
        The shape of max_unpool2d's x.

    Returns
    -------
    ndarray, shape `input_shape`

    Raises
    ------
    TypeError
        If dy is not floating point or indices are not integers.
    ValueError
        If the shapes do not fit together, or an index lies outside its plane.
    """
    op = "max_unpool2d_backward"
    (dy,), dtype = promote(op, ("dy",), dy)
    indices = as_indices(op, np.asarray(indices))
    shape = as_shape(op, "input_shape", input_shape, 3, 4)
    if indices.shape != shape:
        raise ValueError(f"{op}: indices have shape {indices.shape}; needed is input_shape, {shape}")
    dy, single = as_images(op, "dy", dy)
    if len(shape) != (3 if single else 4):
        raise ValueError(f"{op}: input_shape is {shape}, which does not fit dy, an array with {4 - single} axes")
    dx = _core.max_unpool2d_backward(dy, indices[np.newaxis] if single else indices, dy.shape[2:])
    return finish(dx, dtype, single)


def avg_pool2d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Array:
    """Mean of each window.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        The kernel size if it is not given.
    padding : int or (int, int)
        Zeros around the image; at most half of kernel_size, as in PyTorch.
    ceil_mode : bool
        Whether a last window that only partly fits counts. It must start inside the image or the padding before it;
        what lies beyond the padding is not counted.
    count_include_pad : bool
        Whether the zeros of the padding count in the mean.
    divisor_override : float, optional
        What to divide the sums by instead of the number of pixels.

    Returns
    -------
    ndarray, shape (N, C, OH, OW) or (C, OH, OW)

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, has no pixels, the window does not fit, or divisor_override is 0.
    """
    op = "avg_pool2d"
    (x,), dtype = promote(op, ("x",), x)
    x, single = as_images(op, "x", x)
    windows = _average_windows(op, kernel_size, stride, padding)
    divisor = _divisor(op, divisor_override)
    return finish(_core.avg_pool2d(x, *windows, bool(ceil_mode), bool(count_include_pad), divisor), dtype, single)


def avg_pool2d_backward(
    dy: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Array:
    """Gradient of `avg_pool2d`: every pixel gets its share of the windows it was in.

    Parameters
    ----------
    dy : array_like, shape of avg_pool2d's result
    input_shape : tuple of int
        The shape of avg_pool2d's x.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As given to `avg_pool2d`.

    Returns
    -------
    ndarray, shape `input_shape`

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d`; also if dy does not have the shape of its result.
    """
    op = "avg_pool2d_backward"
    (dy,), dtype = promote(op, ("dy",), dy)
    dy, single, size = _gradient_of_pooling(op, dy, input_shape)
    windows = _average_windows(op, kernel_size, stride, padding)
    divisor = _divisor(op, divisor_override)
    dx = _core.avg_pool2d_backward(dy, size, *windows, bool(ceil_mode), bool(count_include_pad), divisor)
    return finish(dx, dtype, single)


def adaptive_avg_pool2d(x: ArrayLike, output_size: SupportsIndex | Sequence[SupportsIndex | None]) -> Array:
    """Mean over windows that share the image out evenly: window i of n covers pixels floor(i*H/n) to ceil((i+1)*H/n).

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
    output_size : int or (int or None, int or None)
        Height and width of the result; None keeps the image's.

    Returns
    -------
    ndarray, shape (N, C, OH, OW) or (C, OH, OW)

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, has no pixels, or output_size is below 1.
    """
    op = "adaptive_avg_pool2d"
    (x,), dtype = promote(op, ("x",), x)
    x, single = as_images(op, "x", x)
    if isinstance(output_size, Sequence) and len(output_size) == 2:
        output_size = tuple(n if o is None else o for o, n in zip(output_size, x.shape[2:], strict=True))
    return finish(_core.adaptive_avg_pool2d(x, as_pair(op, "output_size", output_size)), dtype, single)


def adaptive_avg_pool2d_backward(dy: ArrayLike, input_shape: Sequence[SupportsIndex]) -> Array:
    """Gradient of `adaptive_avg_pool2d`.

    Parameters
    ----------
    dy : array_like, shape of adaptive_avg_pool2d's result
    input_shape : tuple of int
        The shape of adaptive_avg_pool2d's x.

    Returns
    -------
    ndarray, shape `input_shape`

    Raises
    ------
    TypeError, ValueError
        If dy is not floating point, or the shapes do not fit together.
    """
    op = "adaptive_avg_pool2d_backward"
    (dy,), dtype = promote(op, ("dy",), dy)
    dy, single, size = _gradient_of_pooling(op, dy, input_shape)
    return finish(_core.adaptive_avg_pool2d_backward(dy, size), dtype, single)


def _gradient_of_pooling(op: str, dy: Array, input_shape: Any) -> tuple[Array, bool, tuple[int, int]]:
    """Return dy as (N, C, OH, OW), whether it was a single image, and the size of the images that were pooled."""
    shape = as_shape(op, "input_shape", input_shape, 3, 4)
    dy, single = as_images(op, "dy", dy)
    if len(shape) != (3 if single else 4) or shape[:-2] != (dy.shape[1:2] if single else dy.shape[:2]):
        raise ValueError(f"{op}: input_shape is {shape}, which does not fit dy, an array of shape {dy.shape}")
    return dy, single, (shape[-2], shape[-1])


def _average_windows(
    op: str, kernel_size: Any, stride: Any, padding: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return windows_of(op, kernel_size, ("stride", "padding", "dilation"), stride, padding, 1)[:3]


def _divisor(op: str, divisor_override: float | None) -> float:
    """Return the divisor, or the compiled code's 0 for none."""
    if divisor_override is None:
        return 0.0
    divisor = as_float(op, "divisor_override", divisor_override)
    if divisor == 0:
        raise ValueError(f"{op}: divisor_override is 0; sums cannot be divided by it")
    return divisor
