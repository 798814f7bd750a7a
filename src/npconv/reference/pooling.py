"""Max pooling and its inverse, average pooling."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npconv.reference._windows import Array, compute_dtype, pair


def _windows_along(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Number of pooling windows along one axis; the last one must start inside the image or the padding before it."""
    free = size + 2 * pad - dilation * (kernel - 1) - 1
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + pad else count


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
    (kh, kw), (ph, pw), (dh, dw) = pair(kernel_size), pair(padding), pair(dilation)
    sh, sw = pair(kernel_size if stride is None else stride)
    height, width = x.shape[-2:]
    oh = _windows_along(height, kh, sh, ph, dh, ceil_mode)
    ow = _windows_along(width, kw, sw, pw, dw, ceil_mode)
    y = np.full((*x.shape[:-2], oh, ow), -np.inf, x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for r, s in np.ndindex(kh, kw):
        rows = (np.arange(oh) * sh - ph + r * dh)[:, np.newaxis]
        columns = (np.arange(ow) * sw - pw + s * dw)[np.newaxis, :]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        value = x[..., rows.clip(0, height - 1), columns.clip(0, width - 1)]
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


def max_unpool2d(
    x: Array, indices: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Array:
    """Put every value where its index says, zero elsewhere; of two values for one pixel the later one stays."""
    kernel, pad, step = pair(kernel_size), pair(padding), pair(kernel_size if stride is None else stride)
    if output_size is None:
        output_size = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(x.shape[-2:], step, pad, kernel, strict=True)]
    height, width = output_size[-2:]
    planes, values = x.shape[:-2], x.shape[-2] * x.shape[-1]
    y = np.zeros((*planes, height * width), x.dtype)
    np.put_along_axis(y, indices.reshape(*planes, values), x.reshape(*planes, values), axis=-1)
    return y.reshape(*planes, height, width)


def max_unpool2d_backward(dy: Array, indices: Array, input_shape: Any) -> Array:
    """Every value gets the gradient of the pixel that it was put to."""
    *planes, height, width = input_shape
    pixels = dy.reshape(*planes, dy.shape[-2] * dy.shape[-1])
    dx = np.take_along_axis(pixels, indices.reshape(*planes, height * width), axis=-1)
    return cast(Array, dx.reshape(input_shape))


_Windows = tuple[list[slice], list[slice], Array]  # rows and columns of each, and what to divide their sum by


def _average(x: Array, windows: _Windows) -> Array:
    """Mean of each window: sum over its rows, then over its columns."""
    dtype, result_dtype = compute_dtype(x)
    rows, columns, divisor = windows
    x = np.stack([x[..., of, :].sum(axis=-2, dtype=dtype) for of in rows], axis=-2)
    x = np.stack([x[..., of].sum(axis=-1) for of in columns], axis=-1)
    return (x / divisor).astype(result_dtype)


def _average_backward(dy: Array, input_shape: Any, windows: _Windows) -> Array:
    """Each pixel of a window gets the same share of its dy."""
    dtype, result_dtype = compute_dtype(dy)
    rows, columns, divisor = windows
    in_rows = np.zeros((*input_shape[:-1], len(columns)), dtype)
    for i, of in enumerate(rows):
        in_rows[..., of, :] += (dy[..., i, :] / divisor[i])[..., np.newaxis, :]
    dx = np.zeros(input_shape, dtype)
    for j, of in enumerate(columns):
        dx[..., of] += in_rows[..., j, np.newaxis]
    return dx.astype(result_dtype)


def _pooling_windows(
    shape: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: Any
) -> _Windows:
    """Windows of one size; what ceil_mode adds beyond the padding never counts."""
    slices, counts = [], []
    strides = pair(kernel_size if stride is None else stride)
    for size, kernel, step, pad in zip(shape[-2:], pair(kernel_size), strides, pair(padding), strict=True):
        first = np.arange(_windows_along(size, kernel, step, pad, 1, ceil_mode)) * step - pad
        last = np.minimum(first + kernel, size + pad)
        inside = first.clip(0), last.clip(0, size)
        slices.append([slice(*ends) for ends in zip(*inside, strict=True)])
        counts.append(last - first if count_include_pad else inside[1] - inside[0])
    area = np.outer(*counts)
    return slices[0], slices[1], area if divisor is None else np.full_like(area, divisor)


def avg_pool2d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Mean of each window."""
    arguments = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _average(x, _pooling_windows(x.shape, *arguments))


def avg_pool2d_backward(
    dy: Array,
    input_shape: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Each pixel of a window gets the same share of its dy."""
    arguments = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _average_backward(dy, input_shape, _pooling_windows(input_shape, *arguments))


def _adaptive_windows(shape: Any, output_size: Any) -> _Windows:
    """Windows of nearly one size that cover the image; they overlap where it does not come out even."""
    rows, columns = (
        [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        for size, count in zip(shape[-2:], output_size, strict=True)
    )
    return rows, columns, np.outer([of.stop - of.start for of in rows], [of.stop - of.start for of in columns])


def adaptive_avg_pool2d(x: Array, output_size: Any) -> Array:
    """Mean of each of `output_size` windows."""
    height, width = pair(output_size)
    size = x.shape[-2] if height is None else height, x.shape[-1] if width is None else width
    return _average(x, _adaptive_windows(x.shape, size))


def adaptive_avg_pool2d_backward(dy: Array, input_shape: Any) -> Array:
    """Each pixel of a window gets the same share of its dy."""
    return _average_backward(dy, input_shape, _adaptive_windows(input_shape, dy.shape[-2:]))
