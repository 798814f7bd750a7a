"""Fully connected layers and ReLU."""

from __future__ import annotations

from numpy.typing import ArrayLike

from npconv import _core
from npconv.functional._gate import Array, Needs, as_bias, as_dtype, as_needs, finish, promote, require_axes


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
