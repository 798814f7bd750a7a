"""Batch normalization and local response normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from npconv.reference._windows import Array, Gradients, Needs, compute_dtype


def _sum_channels(x: Array, before: int, after: int) -> Array:
    """Sum over each channel and its neighbours."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(before, after), (0, 0), (0, 0)])
    total: Array = sliding_window_view(padded, before + 1 + after, axis=-3).sum(axis=-1)
    return total


def local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divide by (k + alpha * mean of the squares of `size` neighbouring channels) ** beta."""
    dtype, result_dtype = compute_dtype(x)
    x = x.astype(dtype)
    scale = k + alpha / size * _sum_channels(x * x, size // 2, (size - 1) // 2)
    return (x / scale**beta).astype(result_dtype)


def local_response_norm_backward(
    dy: Array, x: Array, y: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Gradient: once through the channel itself, and once through the scales of all that have it as a neighbour."""
    dtype, result_dtype = compute_dtype(x)
    dy, x, y = dy.astype(dtype), x.astype(dtype), y.astype(dtype)
    scale = k + alpha / size * _sum_channels(x * x, size // 2, (size - 1) // 2)
    through_scales = _sum_channels(dy * y / scale, (size - 1) // 2, size // 2)
    return (dy / scale**beta - 2 * alpha * beta / size * x * through_scales).astype(result_dtype)


def batch_norm(
    x: Array, weight: Any = None, bias: Any = None, *, mean: Any = None, var: Any = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Bring every channel to mean 0 and variance 1, then scale and shift it; return also mean and variance."""
    dtype, result_dtype = compute_dtype(x)
    axes, channels = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    x = x.astype(dtype)
    if mean is None:
        count = max(1, x.size // x.shape[1])
        mean = x.sum(axis=axes) / count
        var = ((x - mean.reshape(channels)) ** 2).sum(axis=axes) / count
    y = (x - mean.reshape(channels)) / np.sqrt(var.reshape(channels) + eps)
    y = y if weight is None else y * weight.reshape(channels)
    y = y if bias is None else y + bias.reshape(channels)
    return y.astype(result_dtype), mean.astype(result_dtype), var.astype(result_dtype)


def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    *,
    eps: float = 1e-5,
    training: bool = True,
    needs: Needs = (True, True, True),
) -> Gradients:
    """Gradients; in training mean and variance depend on x too, which takes from dx its mean and its share along y."""
    dtype, result_dtype = compute_dtype(x)
    axes, channels = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    dy = dy.astype(dtype)
    deviation = np.sqrt(var.reshape(channels) + eps)
    normalized = (x - mean.reshape(channels)) / deviation
    dweight, dbias = (dy * normalized).sum(axis=axes), dy.sum(axis=axes)
    dx = dy
    if training:
        count = max(1, x.size // x.shape[1])
        dx = dy - (dbias.reshape(channels) + normalized * dweight.reshape(channels)) / count
    dx = dx / deviation if weight is None else dx / deviation * weight.reshape(channels)
    dx, dweight, dbias = (g.astype(result_dtype) for g in (dx, dweight, dbias))
    return dx if needs[0] else None, dweight if needs[1] else None, dbias if needs[2] else None
