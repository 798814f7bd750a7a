"""The operators of `npconv.functional` in plain NumPy, as one would write them on a blackboard.

They are the oracle of the tests and the base line of the benchmarks: same names, arguments and results, no tricks and
no checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if np.ndim(value) == 0 else (value[0], value[1])


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> list[tuple[int, int]]:
    """Return [(top, bottom), (left, right)]."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    if np.ndim(padding) == 2:
        return [tuple(padding[0]), tuple(padding[1])]
    return [(p, p) for p in _pair(padding)]


def _compute_dtype(*arrays: Array) -> tuple[Any, Any]:
    """Return the dtype to compute in and the dtype of the result: float16 is computed in float32."""
    dtype = np.result_type(*(a.dtype for a in arrays))
    return (np.dtype(np.float32) if dtype == np.float16 else dtype), dtype


def _windows(x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return a view (N, C, OH, OW, KH, KW): the pixels under the kernel at each place."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    spans = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    return sliding_window_view(x, spans, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


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
        single: Array = conv2d(x[np.newaxis], weight, bias, stride, padding, dilation, groups)[0]
        return single
    dtype, result_dtype = _compute_dtype(x, weight)
    stride, dilation = _pair(stride), _pair(dilation)
    pads = _padding(padding, weight.shape[2:], dilation)
    x = np.pad(x.astype(dtype), [(0, 0), (0, 0), *pads])
    windows = _windows(x, weight.shape[2:], stride, dilation)
    parts = [
        np.tensordot(of_x, of_weight, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
        for of_x, of_weight in zip(
            np.split(windows, groups, axis=1), np.split(weight.astype(dtype), groups), strict=True
        )
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
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients: every product of the forward pass hands dy on to its two factors."""
    if x.ndim == 3:
        dx, dweight, dbias = conv2d_backward(
            dy[np.newaxis], x[np.newaxis], weight, stride, padding, dilation, groups, needs=needs
        )
        return None if dx is None else dx[0], dweight, dbias
    dtype, result_dtype = _compute_dtype(x, weight)
    (sh, sw), (dh, dw) = stride, dilation = _pair(stride), _pair(dilation)
    (top, bottom), (left, right) = _padding(padding, weight.shape[2:], dilation)
    dy, weight = dy.astype(dtype), weight.astype(dtype)
    height, width = x.shape[2:]
    kh, kw = weight.shape[2:]
    oh, ow = dy.shape[2:]
    dy_groups = np.split(dy, groups, axis=1)

    dx = dweight = dbias = None
    if needs[0]:
        dx = np.zeros((*x.shape[:2], height + top + bottom, width + left + right), dtype)
        for dx_group, dy_group, w in zip(
            np.split(dx, groups, axis=1), dy_groups, np.split(weight, groups), strict=True
        ):
            for r in range(kh):
                for s in range(kw):
                    rows = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
                    columns = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
                    product = np.tensordot(dy_group, w[:, :, r, s], axes=(1, 0))
                    dx_group[:, :, rows, columns] += product.transpose(0, 3, 1, 2)
        dx = dx[:, :, top : top + height, left : left + width].astype(result_dtype)
    if needs[1]:
        padded = np.pad(x.astype(dtype), [(0, 0), (0, 0), (top, bottom), (left, right)])
        windows = _windows(padded, (kh, kw), stride, dilation)
        parts = [
            np.tensordot(dy_group, x_group, axes=([0, 2, 3], [0, 2, 3]))
            for dy_group, x_group in zip(dy_groups, np.split(windows, groups, axis=1), strict=True)
        ]
        dweight = np.concatenate(parts).astype(result_dtype)
    if needs[2]:
        dbias = dy.sum(axis=(0, 2, 3)).astype(result_dtype)
    return dx, dweight, dbias


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: Any = 1, pad: Any = 0) -> Array:
    """Lay the pixels under each place of a filter side by side (book layout)."""
    (ph, pw), stride = _pair(pad), _pair(stride)
    x = np.pad(input_data, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    windows = _windows(x, (filter_h, filter_w), stride, (1, 1)).transpose(0, 2, 3, 1, 4, 5)
    col: Array = windows.reshape(np.prod(windows.shape[:3]), np.prod(windows.shape[3:]))
    return col


def col2im(col: Array, input_shape: Any, filter_h: int, filter_w: int, stride: Any = 1, pad: Any = 0) -> Array:
    """Add every element of an im2col matrix to the pixel it was taken from."""
    (n, c, h, w), (ph, pw), (sh, sw) = input_shape, _pair(pad), _pair(stride)
    oh = conv_output_size(h, filter_h, sh, ph)
    ow = conv_output_size(w, filter_w, sw, pw)
    windows = col.reshape(n, oh, ow, c, filter_h, filter_w).transpose(0, 3, 1, 2, 4, 5)
    x = np.zeros((n, c, h + 2 * ph, w + 2 * pw), col.dtype)
    for r in range(filter_h):
        for s in range(filter_w):
            x[:, :, r : r + sh * (oh - 1) + 1 : sh, s : s + sw * (ow - 1) + 1 : sw] += windows[..., r, s]
    image: Array = x[:, :, ph : ph + h, pw : pw + w].copy()
    return image


def max_pool2d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window: one comparison per element of the window, in row-major order."""
    if x.ndim == 3:
        y, indices = max_pool2d(x[np.newaxis], kernel_size, stride, padding, dilation, ceil_mode, True)
        return (y[0], indices[0]) if return_indices else y[0]
    (kh, kw), (ph, pw), (dh, dw) = _pair(kernel_size), _pair(padding), _pair(dilation)
    sh, sw = _pair(kernel_size if stride is None else stride)
    height, width = x.shape[2:]

    def windows_along(size: int, kernel: int, step: int, pad: int, spread: int) -> int:
        free = size + 2 * pad - spread * (kernel - 1) - 1
        count = (-(-free // step) if ceil_mode else free // step) + 1
        return count - 1 if ceil_mode and (count - 1) * step >= size + pad else count

    oh, ow = windows_along(height, kh, sh, ph, dh), windows_along(width, kw, sw, pw, dw)
    y = np.full((*x.shape[:2], oh, ow), -np.inf, x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for r in range(kh):
        for s in range(kw):
            rows = (np.arange(oh) * sh - ph + r * dh)[:, np.newaxis]
            columns = (np.arange(ow) * sw - pw + s * dw)[np.newaxis, :]
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            value = x[:, :, rows.clip(0, height - 1), columns.clip(0, width - 1)]
            # The first element inside is taken in any case; then what is greater, and every NaN.
            take = inside & ((indices < 0) | (value > y) | np.isnan(value))
            y = np.where(take, value, y)
            indices = np.where(take, rows * width + columns, indices)
    return (y, indices) if return_indices else y


def max_pool2d_backward(dy: Array, indices: Array, input_shape: Any) -> Array:
    """Every dy goes to the pixel that was the maximum."""
    *planes, height, width = input_shape
    windows = dy.shape[-2] * dy.shape[-1]
    dx = np.zeros((int(np.prod(planes)), height * width), dy.dtype)
    for plane, indices_of_plane, dy_of_plane in zip(
        dx, indices.reshape(len(dx), windows), dy.reshape(len(dx), windows), strict=True
    ):
        np.add.at(plane, indices_of_plane, np.where(indices_of_plane < 0, 0, dy_of_plane))
    result: Array = dx.reshape(input_shape)
    return result


def conv2d_relu_max_pool2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    kernel_size: Any,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Convolution, then ReLU, then max pooling; no index where no gradient passes."""
    z = relu(conv2d(x, weight, bias, stride, padding, dilation, groups))
    y, indices = max_pool2d(z, kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode, return_indices=True)
    return np.where(y <= 0, y.dtype.type(0), y), np.where(y <= 0, -1, indices).astype(np.int32)


def conv2d_relu_max_pool2d_backward(
    dy: Array,
    indices: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    kernel_size: Any,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Back through pooling and ReLU, then to the filters."""
    pads, spread, steps = _padding(padding, weight.shape[2:], _pair(dilation)), _pair(dilation), _pair(stride)
    size = [
        (n + sum(pad) - d * (k - 1) - 1) // s + 1
        for n, k, pad, d, s in zip(x.shape[2:], weight.shape[2:], pads, spread, steps, strict=True)
    ]
    dz = max_pool2d_backward(dy, indices, (*dy.shape[:2], *size))
    return conv2d_backward(dz, x, weight, stride, padding, dilation, groups, needs=(False, True, True))[1:]


def affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Fully connected layer."""
    y: Array = x @ weight
    return y if bias is None else y + bias


def affine_backward(
    dy: Array, x: Array, weight: Array, *, needs: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `affine`."""
    return (
        dy @ weight.T if needs[0] else None,
        x.T @ dy if needs[1] else None,
        dy.sum(axis=0) if needs[2] else None,
    )


def relu(x: Array) -> Array:
    """0 where x <= 0, else x."""
    return np.where(x <= 0, x.dtype.type(0), x)


def relu_backward(dy: Array, y: Array) -> Array:
    """0 where y <= 0, else dy."""
    return np.where(y <= 0, dy.dtype.type(0), dy)
