"""Normalization over the batch, and over neighbouring channels."""

from __future__ import annotations

from typing import Any, SupportsFloat, SupportsIndex

from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    Array,
    Needs,
    as_dtype,
    as_float,
    as_int,
    as_needs,
    finish,
    finish_gradients,
    promote,
    require_axes,
)


def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    var: ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """Batch normalization [1]_: ``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel.

    Parameters
    ----------
    x : array_like, shape (N, C) or (N, C, ...)
    weight, bias : array_like, shape (C,), optional
        Scale and shift; 1 and 0 if they are not given.
    mean, var : array_like, shape (C,), optional
        What to normalise with, as after training. If they are not given, those of the batch: over all axes but the
        second, the variance divided by the number of values.
    eps : float
        Added to the variance, against division by zero.

    Returns
    -------
    y : ndarray, shape of x
    mean, var : ndarrays, shape (C,)
        What was used; zeros for an empty batch.

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, the shapes do not fit together, or only one of mean and var is given.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015.
    """
    op = "batch_norm"
    (x,), dtype = promote(op, ("x",), x)
    if (mean is None) != (var is None):
        raise ValueError(f"{op}: of mean and var one is given; needed are both or none")
    weight, bias = _of_channels(op, "weight", weight, x), _of_channels(op, "bias", bias, x)
    mean, var = _of_channels(op, "mean", mean, x), _of_channels(op, "var", var, x)
    y, mean, var = _core.batch_norm(x, weight, bias, mean, var, _epsilon(op, eps))
    return finish(y, dtype), finish(mean, dtype), finish(var, dtype)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    *,
    eps: float = 1e-5,
    training: bool = True,
    needs: Needs = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `batch_norm`.

    Parameters
    ----------
    dy : array_like, shape of x
    x, weight, eps
        As given to `batch_norm`.
    mean, var : array_like, shape (C,)
        As returned by it.
    training : bool
        Whether mean and var were those of the batch, and so depend on x.
    needs : (bool, bool, bool)
        Which of the three gradients to return.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of the shapes of x, (C,) and (C,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, or the shapes do not fit together.
    """
    op = "batch_norm_backward"
    (x,), dtype = promote(op, ("x",), x)
    dy = as_dtype(op, "dy", dy, x.dtype)
    if dy.shape != x.shape:
        raise ValueError(f"{op}: dy has shape {dy.shape}, x has {x.shape}; needed is the same shape")
    weight = _of_channels(op, "weight", weight, x)
    mean, var = as_dtype(op, "mean", mean, x.dtype), as_dtype(op, "var", var, x.dtype)
    need_dx, need_dweight, need_dbias = as_needs(op, needs)
    dx, dweight, dbias = _core.batch_norm_backward(dy, x, weight, mean, var, _epsilon(op, eps), bool(training), need_dx)
    return finish_gradients(dtype, dx, dweight if need_dweight else None, dbias if need_dbias else None)


def local_response_norm(
    x: ArrayLike, size: SupportsIndex, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Local response normalization [1]_ over neighbouring channels.

    ``y = x / (k + alpha / size * s)**beta``, s the sum of ``x**2`` over `size` channels around each one (of an even
    size, one more before it than behind). That is PyTorch's formula: the paper does not divide alpha by the size.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
    size : int
    alpha, beta, k : float

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, has fewer than 3 axes, or size is below 1.

    References
    ----------
    .. [1] A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet Classification with Deep Convolutional Neural
       Networks", NIPS 2012, section 3.3.
    """
    op = "local_response_norm"
    (x,), dtype = promote(op, ("x",), x)
    single = _single_image(op, x)
    y = _core.local_response_norm(x[None] if single else x, *_response_numbers(op, size, alpha, beta, k))
    return finish(y, dtype, single)


def local_response_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    size: SupportsIndex,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Array:
    """Gradient of `local_response_norm`.

    Parameters
    ----------
    dy : array_like, shape of x
    x, size, alpha, beta, k
        As given to `local_response_norm`.
    y : array_like, shape of x
        Its result.

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    TypeError, ValueError
        As `local_response_norm`; also if the shapes differ.
    """
    op = "local_response_norm_backward"
    (x,), dtype = promote(op, ("x",), x)
    dy, y = as_dtype(op, "dy", dy, x.dtype), as_dtype(op, "y", y, x.dtype)
    if not dy.shape == x.shape == y.shape:
        raise ValueError(f"{op}: dy has shape {dy.shape}, x {x.shape}, y {y.shape}; needed is the same shape")
    numbers = _response_numbers(op, size, alpha, beta, k)
    single = _single_image(op, x)
    if single:
        dy, x, y = dy[None], x[None], y[None]
    return finish(_core.local_response_norm_backward(dy, x, y, *numbers), dtype, single)


def _epsilon(op: str, eps: Any) -> float:
    number = as_float(op, "eps", eps)
    if not number >= 0:
        raise ValueError(f"{op}: eps is {eps!r}; it must be at least 0")
    return number


def _of_channels(op: str, name: str, array: ArrayLike | None, x: Array) -> Array | None:
    """Return one value per channel in the dtype of x."""
    return None if array is None else as_dtype(op, name, array, x.dtype)


def _single_image(op: str, x: Array) -> bool:
    """Whether x is (C, H, W)."""
    require_axes(op, "x", x, "(N, C, H, W) or (C, H, W)", 3, 4)
    return x.ndim == 3


def _response_numbers(
    op: str, size: SupportsIndex, alpha: SupportsFloat, beta: SupportsFloat, k: SupportsFloat
) -> tuple[Any, ...]:
    numbers = (as_float(op, name, value) for name, value in (("alpha", alpha), ("beta", beta), ("k", k)))
    return (as_int(op, "size", size, 1), *numbers)
