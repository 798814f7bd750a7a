"""Fully connected layers, ReLU, and the loss of a classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import (
    I64,
    Array,
    Needs,
    as_bias,
    as_dtype,
    as_float,
    as_needs,
    finish,
    promote,
    require_axes,
)


def affine(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Fully connected layer, ``x @ weight + bias``.

    Parameters
    ----------
    x : array_like, shape (N, D)
    weight : array_like, shape (D, M)
    bias : array_like, shape (M,), optional

    Returns
    -------
    ndarray, shape (N, M)

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "affine"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    require_axes(op, "x", x, "(N, D)", 2)
    require_axes(op, "weight", weight, "(D, M)", 2)
    bias = as_bias(op, bias, x.dtype)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{op}: x has {x.shape[1]} columns, weight has {weight.shape[0]} rows; needed is the same")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"{op}: bias has shape {bias.shape}; needed is {weight.shape[1:]}")
    return finish(_core.gemm(x, weight, bias, False, False), dtype)


def affine_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, needs: Needs = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `affine`: ``dx = dy @ weight.T``, ``dweight = x.T @ dy``, ``dbias = dy.sum(axis=0)``.

    Parameters
    ----------
    dy : array_like, shape (N, M)
    x : array_like, shape (N, D)
    weight : array_like, shape (D, M)
    needs : (bool, bool, bool)
        Which of the three to compute.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of shapes (N, D), (D, M), (M,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "affine_backward"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    dy = as_dtype(op, "dy", dy, x.dtype)
    require_axes(op, "x", x, "(N, D)", 2)
    require_axes(op, "weight", weight, "(D, M)", 2)
    if x.shape[1] != weight.shape[0] or dy.shape != (x.shape[0], weight.shape[1]):
        raise ValueError(
            f"{op}: dy has shape {dy.shape}, x {x.shape}, weight {weight.shape}; needed is (N, M), (N, D), (D, M)"
        )
    need_dx, need_dweight, need_dbias = as_needs(op, needs)
    return (
        finish(_core.gemm(dy, weight, None, False, True), dtype) if need_dx else None,
        finish(_core.gemm(x, dy, None, True, False), dtype) if need_dweight else None,
        finish(dy.sum(axis=0), dtype) if need_dbias else None,
    )


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Fully connected layer with PyTorch's layout of weights, ``x @ weight.T + bias``.

    Parameters
    ----------
    x : array_like, shape (N, D)
    weight : array_like, shape (M, D)
        A row per output.
    bias : array_like, shape (M,), optional

    Returns
    -------
    ndarray, shape (N, M)

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "linear"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    require_axes(op, "x", x, "(N, D)", 2)
    require_axes(op, "weight", weight, "(M, D)", 2)
    bias = as_bias(op, bias, x.dtype)
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{op}: x has {x.shape[1]} columns, weight has {weight.shape[1]}; needed is the same")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{op}: bias has shape {bias.shape}; needed is {weight.shape[:1]}")
    return finish(_core.gemm(x, weight, bias, False, True), dtype)


def linear_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, needs: Needs = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `linear`: ``dx = dy @ weight``, ``dweight = dy.T @ x``, ``dbias = dy.sum(axis=0)``.

    Parameters
    ----------
    dy : array_like, shape (N, M)
    x : array_like, shape (N, D)
    weight : array_like, shape (M, D)
    needs : (bool, bool, bool)
        Which of the three to compute.

    Returns
    -------
    (dx, dweight, dbias) : ndarrays of shapes (N, D), (M, D), (M,)
        None where `needs` is False.

    Raises
    ------
    TypeError, ValueError
        If no input is floating point, or the shapes do not fit together.
    """
    op = "linear_backward"
    (x, weight), dtype = promote(op, ("x", "weight"), x, weight)
    dy = as_dtype(op, "dy", dy, x.dtype)
    require_axes(op, "x", x, "(N, D)", 2)
    require_axes(op, "weight", weight, "(M, D)", 2)
    if x.shape[1] != weight.shape[1] or dy.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(
            f"{op}: dy has shape {dy.shape}, x {x.shape}, weight {weight.shape}; needed is (N, M), (N, D), (M, D)"
        )
    need_dx, need_dweight, need_dbias = as_needs(op, needs)
    return (
        finish(_core.gemm(dy, weight, None, False, False), dtype) if need_dx else None,
        finish(_core.gemm(dy, x, None, True, False), dtype) if need_dweight else None,
        finish(dy.sum(axis=0), dtype) if need_dbias else None,
    )


def relu(x: ArrayLike) -> Array:
    """Rectified linear unit: 0 where ``x <= 0``, else x (a NaN passes).

    Parameters
    ----------
    x : array_like of any shape

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    TypeError
        If x is not floating point.
    """
    (x,), dtype = promote("relu", ("x",), x)
    return finish(_core.relu(x), dtype)


def relu_backward(dy: ArrayLike, y: ArrayLike) -> Array:
    """Gradient of `relu`: 0 where ``y <= 0``, else dy.

    Parameters
    ----------
    dy : array_like of any shape
    y : array_like, shape of dy
        The result of `relu` (its argument serves as well).

    Returns
    -------
    ndarray, shape of dy

    Raises
    ------
    TypeError, ValueError
        If y is not floating point, or the shapes differ.
    """
    op = "relu_backward"
    (y,), dtype = promote(op, ("y",), y)
    dy = as_dtype(op, "dy", dy, y.dtype)
    if dy.shape != y.shape:
        raise ValueError(f"{op}: dy has shape {dy.shape}, y has {y.shape}; needed is the same shape")
    return finish(_core.relu_backward(dy, y), dtype)


def softmax_cross_entropy(x: ArrayLike, t: ArrayLike, epsilon: float = 0.0) -> tuple[float, Array]:
    """Softmax of scores, and its mean cross entropy with the targets, ``-mean(log(softmax(x)[n, t[n]] + epsilon))``.

    Parameters
    ----------
    x : array_like of float, shape (N, classes)
        Scores (logits).
    t : array_like, shape (N,) of int or (N, classes)
        Labels; or one-hot rows, or other probabilities, with which ``-log`` is weighed.
    epsilon : float
        Keeps the logarithm finite, as in the book (1e-7). With 0 the loss is exact however small a probability is.

    Returns
    -------
    (loss, y) : float and ndarray, shape (N, classes)
        The mean over the batch, and the softmax ``exp(x) / sum(exp(x))`` of each row. (Formulas: book, sections 3.5 and
        4.2.)

    Raises
    ------
    TypeError, ValueError
        If x is not floating point, labels are no integers or not in 0..classes-1, or the shapes do not fit together.
    """
    op = "softmax_cross_entropy"
    (x,), dtype = promote(op, ("x",), x)
    loss, y = _core.softmax_cross_entropy(x, _as_targets(op, x, t), as_float(op, "epsilon", epsilon))
    return loss, finish(y, dtype)


def softmax_cross_entropy_backward(y: ArrayLike, t: ArrayLike, scale: float = 1.0) -> Array:
    """Gradient of `softmax_cross_entropy` with respect to x: ``scale * (sum(t) * y - t) / N``.

    t are one-hot rows here, or others, whose sum is 1 if they are distributions.

    Parameters
    ----------
    y : array_like, shape (N, classes)
        The softmax that `softmax_cross_entropy` returned.
    t : array_like, shape (N,) of int or (N, classes)
        The same targets.
    scale : float
        The gradient of whatever is made of the loss.

    Returns
    -------
    ndarray, shape (N, classes)

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    op = "softmax_cross_entropy_backward"
    (y,), dtype = promote(op, ("y",), y)
    t = _as_targets(op, y, t)
    return finish(_core.softmax_cross_entropy_backward(y, t, as_float(op, "scale", scale)), dtype)


def _as_targets(op: str, x: Array, t: ArrayLike) -> Array:
    """Return labels as int64, anything else in the dtype of `x`."""
    t = np.asarray(t)
    if x.ndim != 2 or t.shape not in (x.shape, x.shape[:1]) or len(x) == 0:
        raise ValueError(
            f"{op}: x has shape {x.shape} and t {t.shape}; "
            "needed are (N, classes) with N > 0, and (N,) labels or (N, classes) one-hot rows"
        )
    if t.ndim == 2:
        return as_dtype(op, "t", t, x.dtype)
    if t.dtype.kind not in "iu":
        raise TypeError(f"{op}: labels must be integers, got dtype {t.dtype}")
    return np.require(t, I64, ["C", "A"])
