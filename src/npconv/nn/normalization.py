"""Normalization: per channel over a batch, and per pixel over neighbouring channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npconv import functional as F
from npconv.functional._gate import as_int
from npconv.layers import saved
from npconv.nn.module import Array, Module, float_dtype


class BatchNorm2d(Module):
    """Batch normalization (http://arxiv.org/abs/1502.03167) of images, per channel.

    ``(x - mean) / sqrt(var + eps) * weight + bias``.  In training, mean and variance are those of the batch, over all
    its pixels, and move the running ones; otherwise they are the running ones.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
        Against division by zero.
    momentum : float or None
        How far each batch moves the running statistics: ``running += momentum * (batch - running)``.  (The book's
        momentum is one minus that.)  None: they are the plain mean over all batches.
    affine : bool
        Whether there are weight and bias, which start as ones and zeros.
    track_running_stats : bool
        False: no running statistics; the batch's are taken always.
    dtype : float32 or float64
    rng
        As in every layer with weights; without effect.

    Attributes
    ----------
    weight, bias : ndarray, shape (num_features,), or None
    running_mean, running_var : ndarray, shape (num_features,), or None
        They start as zeros and ones.  The variance that goes in is the unbiased one.
    num_batches_tracked : ndarray of int64, shape (), or None
    """

    parameter_names = "weight", "bias"
    buffer_names = "running_mean", "running_var", "num_batches_tracked"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        size, dtype = as_int("BatchNorm2d", "num_features", num_features, 1), float_dtype(self, dtype)
        self.num_features, self.eps, self.momentum = size, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight: Array | None = np.ones(size, dtype) if affine else None
        self.bias: Array | None = np.zeros(size, dtype) if affine else None
        self.running_mean: Any = np.zeros(size, dtype) if track_running_stats else None
        self.running_var: Any = np.ones(size, dtype) if track_running_stats else None
        self.num_batches_tracked: Any = np.zeros((), np.int64) if track_running_stats else None
        self.x: Array | None = None
        self.mean: Array | None = None  # what the last forward normalized with
        self.var: Array | None = None
        self.of_batch = True  # whether that was the batch's own

    def forward(self, x: Array) -> Array:
        """Return `x`, (N, C, H, W), normalized."""
        shape = np.shape(x)
        if len(shape) != 4 or shape[1] != self.num_features:
            raise ValueError(f"BatchNorm2d: x has shape {shape}; needed is (N, {self.num_features}, H, W)")
        count = shape[0] * shape[2] * shape[3]
        of_batch = self.training or not self.track_running_stats
        if of_batch and self.training and count < 2:
            raise ValueError(f"BatchNorm2d: x has shape {shape}; training needs more than one value per channel")
        mean, var = (None, None) if of_batch else (self.running_mean, self.running_var)
        y, self.mean, self.var = F.batch_norm(x, self.weight, self.bias, mean=mean, var=var, eps=self.eps)
        self.x, self.of_batch = x, of_batch
        if self.training and self.track_running_stats:
            self._track(self.mean, self.var * (count / (count - 1)))
        return y

    def _track(self, mean: Array, var: Array) -> None:
        """Move the running statistics, in place, towards those of a batch."""
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (var - self.running_var)

    def backward(self, dy: Array) -> Array | None:
        """Return dx, or None without `needs_dx`; set `grads`."""
        x, mean, var = (saved(self, array) for array in (self.x, self.mean, self.var))
        needs = (self.needs_dx, self.affine, self.affine)
        dx, dweight, dbias = F.batch_norm_backward(
            dy, x, self.weight, mean, var, eps=self.eps, training=self.of_batch, needs=needs
        )
        self.grads = {"weight": dweight, "bias": dbias} if self.affine else {}
        return dx


class LocalResponseNorm(Module):
    """Local response normalization over neighbouring channels (AlexNet's), `npconv.local_response_norm`.

    Parameters
    ----------
    size, alpha, beta, k
        As `npconv.local_response_norm` has them.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.x: Array | None = None
        self.y: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return ``x / (k + alpha/size * sum of x**2 over size channels)**beta``."""
        self.y = F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        self.x = x
        return self.y

    def backward(self, dy: Array) -> Array:
        """Return dx."""
        x, y = saved(self, self.x), saved(self, self.y)
        return F.local_response_norm_backward(dy, x, y, self.size, self.alpha, self.beta, self.k)
