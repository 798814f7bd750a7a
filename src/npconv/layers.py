"""The layers of the book *Deep Learning from Scratch* (K. Saitoh, O'Reilly Japan), chapters 5 to 8.

Drop-in for the book's ``common/layers.py``: the same constructors, ``forward``, ``backward``, weights
and gradients, the same numbers.  (What the book's layers keep only for their own ``backward``, as
``col``, ``arg_max`` or ``xn``, these have no use for.)  A layer holds state only (its weights, what
``backward`` needs from ``forward``, its gradients); the heavy arithmetic is in `npconv.functional`,
and what is cheap anyway (sigmoid, dropout) is plain NumPy here.

Rules that all layers share:

* Arguments are never written to.  Weights are read at each call, so that changing them in place or
  rebinding ``layer.W`` both take effect.
* The dtype is that of the input and the weights: float32 stays float32.
* Images are (N, C, H, W).  ``backward`` takes the gradient of the loss with respect to the result
  of the last ``forward`` and returns the one with respect to its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

# Operators are called as F.name: rebinding this one name (and that in fusing.py) runs all on `npconv.reference`.
from npconv import functional as F
from npconv._state import as_rng

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "softmax",
]

Array = NDArray[Any]
T = TypeVar("T")


def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax along an axis, ``exp(x) / sum(exp(x))``, shifted by the maximum against overflow."""
    y = np.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return cast(Array, y)


def keep(shape: tuple[int, ...], ratio: float, rng: Any) -> Array:
    """Draw which elements dropout keeps: True with probability ``1 - ratio``."""
    return cast(Array, as_rng(rng).random(shape) > ratio)


class Relu:
    """Rectified linear unit, ``max(x, 0)`` (book, section 5.5.1).  NaN passes through.

    Where the book's ``backward`` overwrites its argument, this one leaves it alone.  `y` is the result
    of the last `forward`, all that `backward` needs; `mask` is True where the gradient is cut.
    """

    def __init__(self) -> None:
        self.y: Array | None = None

    @property
    def mask(self) -> Array | None:
        """True where ``x <= 0`` in the last `forward`, which is where ``y <= 0``."""
        return None if self.y is None else cast(Array, self.y <= 0)

    def forward(self, x: Array) -> Array:
        """Return ``max(x, 0)``, shape and dtype of `x` (any shape)."""
        self.y = F.relu(x)
        return self.y

    def backward(self, dout: Array) -> Array:
        """Return `dout` where ``x > 0``, else 0."""
        return F.relu_backward(dout, saved(self, self.y))


class Sigmoid:
    """Logistic function, ``1 / (1 + exp(-x))`` (book, section 5.5.2); `out` is the last result."""

    def __init__(self) -> None:
        self.out: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return the logistic function of `x` (any shape)."""
        with np.errstate(over="ignore"):  # far below zero exp is infinite, which gives the right result, 0
            self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout: Array) -> Array:
        """Return ``dout * y * (1 - y)``."""
        y = saved(self, self.out)
        return cast(Array, dout * (1 - y) * y)


class Affine:
    """Fully connected layer, ``x @ W + b`` (book, section 5.6).

    Parameters
    ----------
    W : ndarray, shape (D, M)
    b : ndarray, shape (M,), or None
        `backward` leaves the gradients in `dW` and `db` (new arrays each time).
    """

    def __init__(self, W: Array, b: Array | None) -> None:
        self.W = W
        self.b = b
        self.x: Array | None = None
        self.original_x_shape: tuple[int, ...] | None = None
        self.dW: Array | None = None
        self.db: Array | None = None

    def forward(self, x: Array) -> Array:
        """Return ``x @ W + b``, shape (N, M); axes of `x` (N, ...) beyond the first are flattened to D."""
        x = np.asarray(x)
        self.original_x_shape = x.shape
        # not reshape(N, -1): NumPy cannot work out the -1 of an empty batch
        self.x = x.reshape(len(x), math.prod(x.shape[1:]))
        return F.affine(self.x, self.W, self.b)

    def backward(self, dout: Array) -> Array:
        """Return dx, shaped like the input of `forward`, and set `dW` and `db`; `dout` is (N, M)."""
        x = saved(self, self.x)
        needs = (True, True, self.b is not None)
        dx, self.dW, self.db = F.affine_backward(dout, x, self.W, needs=needs)
        return cast(Array, dx).reshape(cast("tuple[int, ...]", self.original_x_shape))


class SoftmaxWithLoss:
    """Softmax followed by the cross entropy, averaged over the batch (book, section 5.6.3).

    Keeps the probabilities `y`, the labels `t` as given, and the `loss`, a scalar of the dtype of `y`.
    """

    _epsilon = 1e-7  # keeps the logarithm finite, as in the book

    def __init__(self) -> None:
        self.loss: Any = None
        self.y: Array | None = None
        self.t: Array | None = None

    def forward(self, x: Array, t: Array) -> Any:
        """Return the loss, ``-sum(log(y[n, t[n]] + 1e-7)) / N``.

        Parameters
        ----------
        x : ndarray of float, shape (N, classes)
            Scores.
        t : ndarray, shape (N,) of int or (N, classes)
            Labels, or one-hot rows (or other probabilities, where the book would take the largest).

        Raises
        ------
        ValueError
            If the shapes do not belong together or a label is outside 0..classes-1.
        TypeError
            If labels are not integers.
        """
        loss, self.y = F.softmax_cross_entropy(x, t, self._epsilon)
        self.t, self.loss = np.asarray(t), self.y.dtype.type(loss)
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        """Return dx = ``dout * (y - t) / N``, shape (N, classes); the book ignores `dout`."""
        return F.softmax_cross_entropy_backward(saved(self, self.y), cast(Array, self.t), float(dout))


class Dropout:
    """Dropout (http://arxiv.org/abs/1207.0580), the book's kind (section 6.4.3).

    In training each element is kept with probability ``1 - dropout_ratio``, else set to zero; in
    testing everything is multiplied by ``1 - dropout_ratio``.

    Parameters
    ----------
    dropout_ratio : float in [0, 1]
    rng : None, int or numpy.random.Generator
        None draws from the global ``numpy.random`` as the book does; an int seeds an own generator.

    Raises
    ------
    ValueError
        If `dropout_ratio` is outside [0, 1].
    """

    def __init__(self, dropout_ratio: float = 0.5, rng: Any = None) -> None:
        if not 0 <= dropout_ratio <= 1:
            raise ValueError(f"Dropout: dropout_ratio must be between 0 and 1, got {dropout_ratio}")
        self.dropout_ratio = dropout_ratio
        self.rng = None if rng is None else as_rng(rng)
        self.mask: Array | None = None  # True where the last forward kept an element; None in test mode

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        """Return `x` (any shape) with elements dropped, or scaled where `train_flg` is False."""
        if not train_flg:
            self.mask = None
            return cast(Array, x * (1 - self.dropout_ratio))
        self.mask = keep(x.shape, self.dropout_ratio, self.rng)
        return x * self.mask

    def backward(self, dout: Array) -> Array:
        """Return the gradient: `dout` where kept, else 0 (in test mode: scaled)."""
        if self.mask is None:
            return cast(Array, dout * (1 - self.dropout_ratio))
        return dout * self.mask


class BatchNormalization:
    """Batch normalization (http://arxiv.org/abs/1502.03167), the book's kind (section 6.3).

    Each of the D features of a sample is normalized over the batch.  Images are treated as the book
    treats them: (N, C, H, W) is flattened to D = C*H*W features, not normalized per channel.

    Parameters
    ----------
    gamma, beta : ndarray, shape (D,), or scalar
        Scale and shift.
    momentum : float
        Share of the old running mean and variance that each training batch keeps.
    running_mean, running_var : ndarray, shape (D,), or None
        What test mode normalizes with; None starts from zeros, as the book does.
    """

    eps = 1e-6  # the book's, against division by zero

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        momentum: float = 0.9,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        self.gamma = gamma
        self.beta = beta
        self.momentum = momentum
        self.running_mean = running_mean
        self.running_var = running_var
        self.x: Array | None = None  # of the last training forward, and what it was normalized with
        self.mean: Array | None = None
        self.var: Array | None = None
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        """Return ``gamma * (x - mean) / sqrt(var + 1e-6) + beta``, shape of `x` ((N, D) or (N, C, H, W)).

        Mean and variance are the batch's in training (which also moves the running ones), the
        running ones where `train_flg` is False.
        """
        shape = x.shape
        x = x.reshape(len(x), math.prod(shape[1:]))
        gamma, beta = (np.broadcast_to(array, x.shape[1:]) for array in (self.gamma, self.beta))
        if self.running_mean is None or self.running_var is None:
            self.running_mean = np.zeros(x.shape[1], x.dtype)
            self.running_var = np.zeros(x.shape[1], x.dtype)

        if train_flg:
            y, mean, var = F.batch_norm(x, gamma, beta, eps=self.eps)
            self.x, self.mean, self.var = x, mean, var
            # rebound, not updated in place: the caller's arrays are the caller's
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        else:
            y, _, _ = F.batch_norm(x, gamma, beta, mean=self.running_mean, var=self.running_var, eps=self.eps)
        return y.reshape(shape)

    def backward(self, dout: Array) -> Array:
        """Return dx, shaped like the input of the last training `forward`; set `dgamma` and `dbeta`."""
        x, mean, var = (saved(self, array) for array in (self.x, self.mean, self.var))
        gamma = np.broadcast_to(self.gamma, mean.shape)
        dx, self.dgamma, self.dbeta = F.batch_norm_backward(dout.reshape(x.shape), x, gamma, mean, var, eps=self.eps)
        return cast(Array, dx).reshape(dout.shape)


class Convolution:
    """Two-dimensional convolution over images (book, section 7.4.3).

    Parameters
    ----------
    W : ndarray, shape (FN, C / groups, FH, FW)
        The filters.
    b : ndarray, shape (FN,), a number for all filters, or None
    stride : int or pair
    pad : int, pair, ((top, bottom), (left, right)), "valid" or "same"
    padding
        Another name for `pad`, that of `npconv.conv2d`.
    dilation, groups, padding_mode, algorithm
        As `npconv.conv2d` has them.

    Attributes
    ----------
    dW, db : ndarray or None
        Gradients of the last `backward`; new arrays each time.
    needs_dx : bool
        Set it to False on the first layer of a network, whose dx nobody reads: `backward` then
        returns None and is the faster for it.

    Raises
    ------
    TypeError
        If both `pad` and `padding` are given.
    ValueError
        By `backward`, without a `forward` before it. Anything else that does not fit, `forward` and
        `backward` refuse as `npconv.conv2d` does.
    """

    def __init__(
        self,
        W: Array,
        b: Array | None,
        stride: int | Sequence[int] = 1,
        pad: Any = 0,
        *,
        padding: Any = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        algorithm: str = "auto",
    ) -> None:
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = _one_of(pad, padding)
        self.dilation = dilation
        self.groups = groups
        self.padding_mode = padding_mode
        self.algorithm = algorithm
        self.needs_dx = True
        self.x: Array | None = None
        self.dW: Array | None = None
        self.db: Array | None = None

    @property
    def weights(self) -> tuple[Array, Array | None]:
        """Filters and bias, in the order of `npconv.conv2d`; a bias that is one number stands for all filters."""
        b = self.b
        return self.W, b if b is None or np.ndim(b) else np.full(len(self.W), b)

    @property
    def geometry(self) -> tuple[Any, Any, Any, int]:
        """Stride, padding, dilation and groups, in the order of `npconv.conv2d`."""
        return self.stride, self.pad, self.dilation, self.groups

    def set_gradients(self, dweight: Array | None, dbias: Array | None) -> None:
        """Fill `dW` and `db`."""
        self.dW, self.db = dweight, None if self.b is None else dbias

    def forward(self, x: Array) -> Array:
        """Return the convolution of `x` (N, C, H, W), shape (N, FN, OH, OW); errors as `npconv.conv2d`."""
        self.x = x
        return F.conv2d(x, *self.weights, *self.geometry, padding_mode=self.padding_mode, algorithm=self.algorithm)

    def backward(self, dout: Array) -> Array | None:
        """Return dx (N, C, H, W), or None without `needs_dx`, and set `dW` and `db`."""
        dx, self.dW, self.db = F.conv2d_backward(
            dout, saved(self, self.x), self.W, *self.geometry,
            padding_mode=self.padding_mode, algorithm=self.algorithm,
            needs=(self.needs_dx, True, self.b is not None),
        )  # fmt: skip
        return dx


class Pooling:
    """Max pooling (book, section 7.4.4).

    Where the book is wrong this layer is right: `pad` counts in the output size, and the border is
    minus infinity, so that it never wins (the book pads with zeros, which win over negative inputs).

    Parameters
    ----------
    pool_h, pool_w : int
        Height and width of the window.
    stride : int, pair, or None for the window's size
    pad : int or pair
        At most half the window's size.
    padding
        Another name for `pad`, that of `npconv.max_pool2d`.
    dilation, ceil_mode, return_indices
        As `npconv.max_pool2d` has them; with `return_indices`, `forward` returns (y, indices).

    Raises
    ------
    TypeError
        If both `pad` and `padding` are given.
    ValueError
        By `backward`, without a `forward` before it. Anything else that does not fit, `forward` and
        `backward` refuse as `npconv.max_pool2d` does.
    """

    def __init__(
        self,
        pool_h: int,
        pool_w: int,
        stride: int | Sequence[int] | None = 2,
        pad: int | Sequence[int] = 0,
        *,
        padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = _one_of(pad, padding)
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        self.return_indices = return_indices
        self.x: Array | None = None
        self.indices: Array | None = None  # int64: where in its plane of H*W each maximum was
        self.taps: Array | None = None  # or, where it ran as one with a convolution, where in its window
        self.fused_with: Sequence[Any] = ()  # the layers before it that the last forward ran as one with it

    @property
    def window(self) -> tuple[Any, Any, Any, Any, bool]:
        """Kernel size, stride, padding, dilation and ceil mode, in the order of `npconv.max_pool2d`."""
        return (self.pool_h, self.pool_w), self.stride, self.pad, self.dilation, self.ceil_mode

    def forward(self, x: Array) -> Any:
        """Return the maxima of the windows of `x` (N, C, H, W), shape (N, C, OH, OW)."""
        self.x, self.taps, self.fused_with = x, None, ()
        y, self.indices = F.max_pool2d(x, *self.window, return_indices=True)
        return (y, self.indices) if self.return_indices else y

    def backward(self, dout: Array) -> Array:
        """Return dx (N, C, H, W): each element of `dout` added where its maximum was."""
        run_apart(self)
        return F.max_pool2d_backward(dout, saved(self, self.indices), np.shape(saved(self, self.x)))


def run_apart(pool: Any) -> None:
    """Run forward again, one by one, what the last forward ran as one with a pooling, for a backward layer by layer."""
    if pool.fused_with:
        x = pool.fused_with[0].x
        for layer in pool.fused_with:
            x = layer.forward(x)
        pool.forward(x)


def saved(layer: object, value: T | None) -> T:
    """Return what `forward` left for `backward`, or say that there was no `forward`."""
    if value is None:
        raise ValueError(f"{type(layer).__name__}.backward needs a forward pass first")
    return value


def _one_of(pad: Any, padding: Any) -> Any:
    """Return the value of an argument that has two names."""
    if padding is None:
        return pad
    if isinstance(pad, int) and pad == 0:
        return padding
    raise TypeError(f"pad={pad!r} and padding={padding!r} are two names of one argument; give one")
