"""Neighbouring layers, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from npconv.reference._windows import Array, Gradients, Needs
from npconv.reference.convolution import conv2d, conv2d_backward
from npconv.reference.dense import relu
from npconv.reference.pooling import max_pool2d, max_pool2d_backward


def conv2d_relu(x: Array, weight: Array, bias: Any = None, *convolution: Any, **options: Any) -> Array:
    """Convolution, then ReLU."""
    return relu(conv2d(x, weight, bias, *convolution, **options))


def conv2d_relu_max_pool2d(
    x: Array, weight: Array, bias: Any = None, *convolution: Any, return_taps: bool = True, **pooling: Any
) -> Any:
    """Convolution, then ReLU, then max pooling; instead of taps, indices, -1 where no gradient passes."""
    z = relu(conv2d(x, weight, bias, *convolution))
    arguments = {name.removeprefix("pool_"): value for name, value in pooling.items()}
    y, indices = max_pool2d(z, **arguments, return_indices=True)
    y, indices = np.where(y <= 0, y.dtype.type(0), y), np.where(y <= 0, -1, indices)
    return y, indices if return_taps else None


def conv2d_relu_max_pool2d_backward(
    dy: Array, indices: Array, x: Array, weight: Array, *convolution: Any, needs: Needs = (True, True, True), **_: Any
) -> Gradients:
    """Back through pooling and ReLU, then through the convolution."""
    dz = max_pool2d_backward(dy, indices, conv2d(x, weight, None, *convolution).shape)
    return conv2d_backward(dz, x, weight, *convolution, needs=needs)
