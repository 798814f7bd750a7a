"""Convolution and transposed convolution."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npconv.reference._windows import (
    Array,
    Gradients,
    Needs,
    compute_dtype,
    pad,
    padding_of,
    pair,
    taps_of,
    unpad,
    windows_of,
)


def conv_output_size(input_size: int, filter_size: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """Number of places where a filter fits along one axis."""
    return (input_size + 2 * pad - dilation * (filter_size - 1) - 1) // stride + 1


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Array:
    """Convolution: for each group, the windows times the filters, summed over channel, row and column."""
    if x.ndim == 3:
        batch = conv2d(x[np.newaxis], weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode)
        return batch.squeeze(0)
    dtype, result_dtype = compute_dtype(x, weight)
    stride, dilation = pair(stride), pair(dilation)
    pads = padding_of(padding, weight.shape[2:], dilation)
    windows = windows_of(pad(x.astype(dtype), pads, padding_mode), weight.shape[2:], stride, dilation)
    of_groups = np.split(windows, groups, axis=1), np.split(weight.astype(dtype), groups)
    parts = [
        np.tensordot(x_group, w, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
        for x_group, w in zip(*of_groups, strict=True)
    ]
    y: Array = np.concatenate(parts, axis=1)
    if bias is not None:
        y += bias.reshape(-1, 1, 1)
    return y.astype(result_dtype)


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    needs: Needs = (True, True, True),
    algorithm: str = "auto",
) -> Gradients:
    """Gradients: every product of the forward pass hands dy on to its two factors."""
    if x.ndim == 3:
        arguments = dy[np.newaxis], x[np.newaxis], weight, stride, padding, dilation, groups
        dx, dweight, dbias = conv2d_backward(*arguments, padding_mode=padding_mode, needs=needs)
        return None if dx is None else dx[0], dweight, dbias
    dtype, result_dtype = compute_dtype(x, weight)
    stride, dilation = pair(stride), pair(dilation)
    kernel, places = weight.shape[2:], dy.shape[2:]
    pads = padding_of(padding, kernel, dilation)
    dy, weight = dy.astype(dtype), weight.astype(dtype)
    dy_groups = np.split(dy, groups, axis=1)

    dx = dweight = dbias = None
    if needs[0]:
        dx = np.zeros((*x.shape[:2], *(n + sum(pad) for n, pad in zip(x.shape[2:], pads, strict=True))), dtype)
        of_groups = np.split(dx, groups, axis=1), dy_groups, np.split(weight, groups)
        for dx_group, dy_group, w in zip(*of_groups, strict=True):
            for r, s, rows, columns in taps_of(kernel, stride, dilation, places):
                product = np.tensordot(dy_group, w[:, :, r, s], axes=(1, 0))
                dx_group[:, :, rows, columns] += product.transpose(0, 3, 1, 2)
        dx = unpad(dx, pads, padding_mode).astype(result_dtype)
    if needs[1]:
        windows = windows_of(pad(x.astype(dtype), pads, padding_mode), kernel, stride, dilation)
        windows = windows[:, :, : places[0], : places[1]]
        parts = [
            np.tensordot(dy_group, x_group, axes=([0, 2, 3], [0, 2, 3]))
            for dy_group, x_group in zip(dy_groups, np.split(windows, groups, axis=1), strict=True)
        ]
        dweight = np.concatenate(parts).astype(result_dtype)
    if needs[2]:
        dbias = dy.sum(axis=(0, 2, 3)).astype(result_dtype)
    return dx, dweight, dbias


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """What `conv2d_backward` does with dy: every pixel of x lays the filter, times its value, onto y."""
    dtype, result_dtype = compute_dtype(x, weight)
    pads = padding_of(padding, weight.shape[2:], pair(dilation))
    sizes = x.shape[-2:], weight.shape[2:], pair(stride), pair(dilation), pair(output_padding), pads
    size = [(n - 1) * s + d * (k - 1) + 1 + extra - sum(pad) for n, k, s, d, extra, pad in zip(*sizes, strict=True)]
    image = np.empty((*x.shape[:-3], groups * weight.shape[1], *size), dtype)
    only_dx = True, False, False
    y: Any = conv2d_backward(x, image, weight, stride, padding, dilation, groups, needs=only_dx)[0]
    y = y if bias is None else y + bias.reshape(-1, 1, 1)
    return cast(Array, y.astype(result_dtype))


def conv_transpose2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: Needs = (True, True, True),
) -> Gradients:
    """Gradients: those of a convolution, in which x and dy have changed places."""
    dtype, result_dtype = compute_dtype(x, weight)
    height, width = x.shape[-2:]
    dx = dweight = dbias = None
    if needs[0]:  # output_padding can leave room for a window that belongs to no pixel of x
        dx = conv2d(dy, weight, None, stride, padding, dilation, groups)[..., :height, :width].astype(result_dtype)
    if needs[1]:
        only_dweight = False, True, False
        _, dweight, _ = conv2d_backward(x, dy, weight, stride, padding, dilation, groups, needs=only_dweight)
    if needs[2]:
        dbias = dy.astype(dtype).sum(axis=(*range(dy.ndim - 3), -2, -1)).astype(result_dtype)
    return dx, dweight, dbias
