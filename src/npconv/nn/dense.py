"""Fully connected layers, what stands between them, and the loss behind them."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from npconv import functional as F
from npconv import layers
from npconv._state import as_rng
from npconv.functional._gate import as_int
from npconv.layers import saved, softmax
from npconv.nn.module import Array, Module, WeightedModule


class Linear(WeightedModule):
    """Fully connected layer, ``x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether to add a number to each output.
    rng, dtype
        See `WeightedModule`, which also tells how the weights start.

    Attributes
    ----------
    weight : ndarray, shape (out_features, in_features)
        The book's ``Affine.W``, transposed.
    bias : ndarray, shape (out_features,), or None
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in_features = as_int("Linear", "in_features", in_features, 1)
        self.out_features = as_int("Linear", "out_features", out_features, 1)
        super().__init__((self.out_features, self.in_features), self.out_features, bias, rng, dtype)
        self.x: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return ``x @ weight.T + bias``, shape (..., out_features), of `x` (..., in_features)."""
        self.x = x
        return _like(x, F.linear(_rows(x), self.weight, self.bias))

    def backward(self, dy: Array) -> Array | None:
        """Return dx, or None without `needs_dx`; set `grads`."""
        needs = (self.needs_dx, True, self.bias is not None)
        x = saved(self, self.x)
        dx, dweight, dbias = F.linear_backward(_rows(dy), _rows(x), self.weight, needs=needs)
        self.set_gradients(dweight, dbias)
        return None if dx is None else _like(x, dx)


def _rows(x: Array) -> Array:
    """Return `x` with all its axes but the last made one."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), *x.shape[-1:])


def _like(x: Array, rows: Array) -> Array:
    """Return rows with the leading axes of `x`."""
    return rows if x.ndim == 2 else rows.reshape(*x.shape[:-1], rows.shape[1])


class ReLU(layers.Relu, Module):
    """Rectified linear unit, ``max(x, 0)``: the book's `npconv.layers.Relu`.

    Parameters
    ----------
    inplace : bool
        PyTorch's; without effect, since no layer here writes to its input.
    """

    def __init__(self, inplace: bool = False) -> None:
        Module.__init__(self)
        layers.Relu.__init__(self)


class Sigmoid(layers.Sigmoid, Module):
    """Logistic function, ``1 / (1 + exp(-x))``: the book's `npconv.layers.Sigmoid`."""

    def __init__(self) -> None:
        Module.__init__(self)
        layers.Sigmoid.__init__(self)


class Tanh(Module):
    """Hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__()
        self.y: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return ``tanh(x)`` (any shape)."""
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        """Return ``dy * (1 - y**2)``."""
        dx = np.asarray(np.square(saved(self, self.y)))
        np.subtract(1, dx, out=dx)  # in place: fresh memory costs more than the arithmetic
        dx *= dy
        return dx


class Softmax(Module):
    """``exp(x) / sum(exp(x))`` along one axis: positive numbers whose sum is 1.

    `CrossEntropyLoss` contains it: a network that is trained with that loss ends without it.

    Parameters
    ----------
    dim : int or None
        The axis.  None: the first of one or three, else the second, as in PyTorch.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.y: Array | None = None

    def _axis(self, ndim: int) -> int:
        if self.dim is not None:
            return self.dim
        return 0 if ndim in (0, 1, 3) else 1

    def forward(self, x: Array) -> Array:
        """Return the softmax of `x` (any shape)."""
        self.y = softmax(x, self._axis(x.ndim))
        return self.y

    def backward(self, dy: Array) -> Array:
        """Return ``y * (dy - sum(dy * y))``."""
        y = saved(self, self.y)
        return cast(Array, y * (dy - np.sum(dy * y, axis=self._axis(y.ndim), keepdims=True)))


class Flatten(Module):
    """Makes one axis of several: (N, C, H, W) becomes (N, C*H*W).

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of those axes.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim
        self.input_shape: tuple[int, ...] | None = None

    def forward(self, x: Array) -> Array:
        """Return `x` with these axes made one; no copy where none is needed."""
        shape = np.shape(x)
        start, end = (dim + len(shape) if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < len(shape):
            raise ValueError(
                f"Flatten: start_dim is {self.start_dim} and end_dim {self.end_dim}; "
                f"x has shape {shape}, which has no such axes in this order"
            )
        self.input_shape = shape
        return x.reshape(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])

    def backward(self, dy: Array) -> Array:
        """Return dy in the shape of the input."""
        return dy.reshape(saved(self, self.input_shape))


class Dropout(Module):
    """Dropout (http://arxiv.org/abs/1207.0580), inverted, as in PyTorch.

    In training each element is set to zero with probability `p`, else multiplied by ``1 / (1 - p)``; otherwise
    everything passes as it is.  (The book's `npconv.layers.Dropout` multiplies by ``1 - p`` in testing instead.)

    Parameters
    ----------
    p : float in [0, 1]
    inplace : bool
        PyTorch's; without effect, since no layer here writes to its input.
    rng : None, int or numpy.random.Generator
        None draws from the global ``numpy.random``; an int seeds an own generator.

    Attributes
    ----------
    mask : ndarray or None
        What the last `forward` multiplied by; None outside training.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Any = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p}")
        super().__init__()
        self.p = p
        self.rng = None if rng is None else as_rng(rng)
        self.mask: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return `x` (any shape) with elements dropped, in training; else `x` itself."""
        if not self.training:
            self.mask = None
            return x
        scale = x.dtype.type(1 / (1 - self.p) if self.p < 1 else 0)
        self.mask = layers.keep(x.shape, self.p, self.rng) * scale
        return x * self.mask

    def backward(self, dy: Array) -> Array:
        """Return the gradient: dy times the mask."""
        return dy if self.mask is None else dy * self.mask


class CrossEntropyLoss(layers.SoftmaxWithLoss, Module):
    """Softmax and cross entropy, averaged over the batch: ``-sum(log(softmax(logits))[n, labels[n]]) / N``.

    It is the book's `npconv.layers.SoftmaxWithLoss`, but for the 1e-7 that the book adds inside of the logarithm: this
    loss is exact however small the probability.  Labels may be one-hot rows, or other probabilities, too.
    """

    _epsilon = 0.0

    def __init__(self) -> None:
        Module.__init__(self)
        layers.SoftmaxWithLoss.__init__(self)

    def forward(self, x: Array, t: Array) -> float:
        """Return the loss of logits `x` (N, classes) for labels `t`, (N,) of int or (N, classes)."""
        return float(super().forward(x, t))
