"""Fully connected layers, ReLU, and the loss of a classifier."""

from __future__ import annotations

import numpy as np

from npconv.reference._windows import Array, Gradients, Needs, compute_dtype


def affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Fully connected layer."""
    y: Array = x @ weight
    return y if bias is None else y + bias


def affine_backward(dy: Array, x: Array, weight: Array, *, needs: Needs = (True, True, True)) -> Gradients:
    """Gradients of `affine`."""
    return (
        dy @ weight.T if needs[0] else None,
        x.T @ dy if needs[1] else None,
        dy.sum(axis=0) if needs[2] else None,
    )


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Fully connected layer with a row of weights per output (torch layout)."""
    return affine(x, weight.T, bias)


def linear_backward(dy: Array, x: Array, weight: Array, *, needs: Needs = (True, True, True)) -> Gradients:
    """Gradients of `linear`."""
    dx, dweight, dbias = affine_backward(dy, x, weight.T, needs=needs)
    return dx, None if dweight is None else dweight.T, dbias


def relu(x: Array) -> Array:
    """0 where x <= 0, else x."""
    return np.where(x <= 0, x.dtype.type(0), x)


def relu_backward(dy: Array, y: Array) -> Array:
    """0 where y <= 0, else dy."""
    return np.where(y <= 0, dy.dtype.type(0), dy)


def softmax_cross_entropy(x: Array, t: Array, epsilon: float = 0.0) -> tuple[float, Array]:
    """Softmax of each row, and the mean of -log of it at the target."""
    _, result = compute_dtype(x)
    shifted = x - x.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    y = np.exp(shifted) / total
    log_y = np.log(y + epsilon) if epsilon > 0 else shifted - np.log(total)
    return float(-(_one_hot(t, y) * log_y).sum() / len(x)), y.astype(result, copy=False)


def softmax_cross_entropy_backward(y: Array, t: Array, scale: float = 1.0) -> Array:
    """Softmax, times the sum of the target, less the target, over the number of rows."""
    target = _one_hot(t, y)
    dx: Array = scale * (target.sum(axis=1, keepdims=True) * y - target) / len(y)
    return dx.astype(y.dtype, copy=False)


def _one_hot(t: Array, y: Array) -> Array:
    return t if t.ndim == 2 else np.equal.outer(t, np.arange(y.shape[1])).astype(y.dtype)
