"""The operators of `npconv.functional` in plain NumPy, as one would write them on a blackboard.

They are the oracle of the tests and the base line of the benchmarks: same names, arguments and results, no tricks and
no checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]
Needs = tuple[bool, bool, bool]
Gradients = tuple[Array | None, Array | None, Array | None]

_NUMPY_MODES: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


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


def _pad(x: Array, pads: list[tuple[int, int]], mode: str = "zeros") -> Array:
    return np.pad(x, [(0, 0), (0, 0), *pads], _NUMPY_MODES[mode])


def _unpad(padded: Array, pads: list[tuple[int, int]], mode: str = "zeros") -> Any:
    """Add every pixel of the padding to the one that it repeats, and cut it off: the transpose of _pad."""
    height, width = (n - sum(pad) for n, pad in zip(padded.shape[2:], pads, strict=True))
    if mode == "zeros":
        (top, _), (left, _) = pads
        return padded[:, :, top : top + height, left : left + width]
    rows = np.pad(np.arange(height), pads[0], _NUMPY_MODES[mode])
    columns = np.pad(np.arange(width), pads[1], _NUMPY_MODES[mode])
    x = np.zeros((height, width, *padded.shape[:2]), padded.dtype)
    np.add.at(x, np.ix_(rows, columns), padded.transpose(2, 3, 0, 1))
    return x.transpose(2, 3, 0, 1)


def _compute_dtype(*arrays: Array) -> tuple[Any, Any]:
    """Return the dtype to compute in and the dtype of the result: float16 is computed in float32."""
    dtype = np.result_type(*(a.dtype for a in arrays))
    return (np.dtype(np.float32) if dtype == np.float16 else dtype), dtype


def _windows(x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return a view (N, C, OH, OW, KH, KW): the pixels under the kernel at each place."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    spans = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    return sliding_window_view(x, spans, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


def _taps(kernel: Any, stride: Any, dilation: Any, places: Any) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each row and column of the kernel, and the rows and columns of the padded image that it meets."""
    (sh, sw), (dh, dw), (oh, ow) = stride, dilation, places
    for r, s in np.ndindex(*kernel):
        rows, columns = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh), slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
        yield r, s, rows, columns


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
    dtype, result_dtype = _compute_dtype(x, weight)
    stride, dilation = _pair(stride), _pair(dilation)
    pads = _padding(padding, weight.shape[2:], dilation)
    windows = _windows(_pad(x.astype(dtype), pads, padding_mode), weight.shape[2:], stride, dilation)
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
    dtype, result_dtype = _compute_dtype(x, weight)
    stride, dilation = _pair(stride), _pair(dilation)
    kernel, places = weight.shape[2:], dy.shape[2:]
    pads = _padding(padding, kernel, dilation)
    dy, weight = dy.astype(dtype), weight.astype(dtype)
    dy_groups = np.split(dy, groups, axis=1)

    dx = dweight = dbias = None
    if needs[0]:
        dx = np.zeros((*x.shape[:2], *(n + sum(pad) for n, pad in zip(x.shape[2:], pads, strict=True))), dtype)
        of_groups = np.split(dx, groups, axis=1), dy_groups, np.split(weight, groups)
        for dx_group, dy_group, w in zip(*of_groups, strict=True):
            for r, s, rows, columns in _taps(kernel, stride, dilation, places):
                product = np.tensordot(dy_group, w[:, :, r, s], axes=(1, 0))
                dx_group[:, :, rows, columns] += product.transpose(0, 3, 1, 2)
        dx = _unpad(dx, pads, padding_mode).astype(result_dtype)
    if needs[1]:
        windows = _windows(_pad(x.astype(dtype), pads, padding_mode), kernel, stride, dilation)
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
    dtype, result_dtype = _compute_dtype(x, weight)
    pads = _padding(padding, weight.shape[2:], _pair(dilation))
    sizes = x.shape[-2:], weight.shape[2:], _pair(stride), _pair(dilation), _pair(output_padding), pads
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
    dtype, result_dtype = _compute_dtype(x, weight)
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


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: Any = 1, pad: Any = 0) -> Array:
    """Lay the pixels under each place of a filter side by side (book layout)."""
    columns = unfold(input_data, (filter_h, filter_w), 1, pad, stride)
    n, elements, places = columns.shape
    return cast(Array, columns.transpose(0, 2, 1).reshape(n * places, elements))


def col2im(col: Array, input_shape: Any, filter_h: int, filter_w: int, stride: Any = 1, pad: Any = 0) -> Array:
    """Add every element of an im2col matrix to the pixel it was taken from."""
    n, elements = input_shape[0], col.shape[1]
    columns = col.reshape(n, len(col) // max(n, 1), elements).transpose(0, 2, 1)
    return fold(columns, input_shape[2:], (filter_h, filter_w), 1, pad, stride)


def unfold(x: Array, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Array:
    """Lay the pixels under each place of a filter one below the other (torch layout)."""
    if x.ndim == 3:
        return unfold(x[np.newaxis], kernel_size, dilation, padding, stride).squeeze(0)
    kernel, dilation = _pair(kernel_size), _pair(dilation)
    windows = _windows(_pad(x, _padding(padding, kernel, dilation)), kernel, _pair(stride), dilation)
    n, c, oh, ow, kh, kw = windows.shape
    return cast(Array, windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, oh * ow))


def fold(x: Array, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Array:
    """Add every element of an unfolded image to the pixel it was taken from."""
    if x.ndim == 2:
        return fold(x[np.newaxis], output_size, kernel_size, dilation, padding, stride).squeeze(0)
    kernel, stride, dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
    pads = _padding(padding, kernel, dilation)
    size = [n + sum(pad) for n, pad in zip(_pair(output_size), pads, strict=True)]
    places = [conv_output_size(n, k, s, 0, d) for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    dtype, result_dtype = _compute_dtype(x)
    windows = x.reshape(len(x), x.shape[1] // (kernel[0] * kernel[1]), *kernel, *places)
    image = np.zeros((*windows.shape[:2], *size), dtype)
    for r, s, rows, columns in _taps(kernel, stride, dilation, places):
        image[:, :, rows, columns] += windows[:, :, r, s]
    return cast(Array, _unpad(image, pads).astype(result_dtype))


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
    (kh, kw), (ph, pw), (dh, dw) = _pair(kernel_size), _pair(padding), _pair(dilation)
    sh, sw = _pair(kernel_size if stride is None else stride)
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
    kernel, pad, step = _pair(kernel_size), _pair(padding), _pair(kernel_size if stride is None else stride)
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
    dtype, result_dtype = _compute_dtype(x)
    rows, columns, divisor = windows
    x = np.stack([x[..., of, :].sum(axis=-2, dtype=dtype) for of in rows], axis=-2)
    x = np.stack([x[..., of].sum(axis=-1) for of in columns], axis=-1)
    return (x / divisor).astype(result_dtype)


def _average_backward(dy: Array, input_shape: Any, windows: _Windows) -> Array:
    """Each pixel of a window gets the same share of its dy."""
    dtype, result_dtype = _compute_dtype(dy)
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
    strides = _pair(kernel_size if stride is None else stride)
    for size, kernel, step, pad in zip(shape[-2:], _pair(kernel_size), strides, _pair(padding), strict=True):
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
    height, width = _pair(output_size)
    size = x.shape[-2] if height is None else height, x.shape[-1] if width is None else width
    return _average(x, _adaptive_windows(x.shape, size))


def adaptive_avg_pool2d_backward(dy: Array, input_shape: Any) -> Array:
    """Each pixel of a window gets the same share of its dy."""
    return _average_backward(dy, input_shape, _adaptive_windows(input_shape, dy.shape[-2:]))


def _sum_channels(x: Array, before: int, after: int) -> Array:
    """Sum over each channel and its neighbours."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(before, after), (0, 0), (0, 0)])
    total: Array = sliding_window_view(padded, before + 1 + after, axis=-3).sum(axis=-1)
    return total


def local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divide by (k + alpha * mean of the squares of `size` neighbouring channels) ** beta."""
    dtype, result_dtype = _compute_dtype(x)
    x = x.astype(dtype)
    scale = k + alpha / size * _sum_channels(x * x, size // 2, (size - 1) // 2)
    return (x / scale**beta).astype(result_dtype)


def local_response_norm_backward(
    dy: Array, x: Array, y: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Gradient: once through the channel itself, and once through the scales of all that have it as a neighbour."""
    dtype, result_dtype = _compute_dtype(x)
    dy, x, y = dy.astype(dtype), x.astype(dtype), y.astype(dtype)
    scale = k + alpha / size * _sum_channels(x * x, size // 2, (size - 1) // 2)
    through_scales = _sum_channels(dy * y / scale, (size - 1) // 2, size // 2)
    return (dy / scale**beta - 2 * alpha * beta / size * x * through_scales).astype(result_dtype)


def batch_norm(
    x: Array, weight: Any = None, bias: Any = None, *, mean: Any = None, var: Any = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Bring every channel to mean 0 and variance 1, then scale and shift it; return also mean and variance."""
    dtype, result_dtype = _compute_dtype(x)
    axes, channels = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    x = x.astype(dtype)
    if mean is None:
        count = max(1, x.size // x.shape[1])
        mean = x.sum(axis=axes) / count
        var = ((x - mean.reshape(channels)) ** 2).sum(axis=axes) / count
    y = (x - mean.reshape(channels)) / np.sqrt(var.reshape(channels) + eps)
    y = y if weight is None else y * weight.reshape(channels)
    y = y if bias is None else y + bias.reshape(channels)
    return y.astype(result_dtype), mean.astype(result_dtype), var.astype(result_dtype)


def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    *,
    eps: float = 1e-5,
    training: bool = True,
    needs: Needs = (True, True, True),
) -> Gradients:
    """Gradients; in training mean and variance depend on x too, which takes from dx its mean and its share along y."""
    dtype, result_dtype = _compute_dtype(x)
    axes, channels = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    dy = dy.astype(dtype)
    deviation = np.sqrt(var.reshape(channels) + eps)
    normalized = (x - mean.reshape(channels)) / deviation
    dweight, dbias = (dy * normalized).sum(axis=axes), dy.sum(axis=axes)
    dx = dy
    if training:
        count = max(1, x.size // x.shape[1])
        dx = dy - (dbias.reshape(channels) + normalized * dweight.reshape(channels)) / count
    dx = dx / deviation if weight is None else dx / deviation * weight.reshape(channels)
    dx, dweight, dbias = (g.astype(result_dtype) for g in (dx, dweight, dbias))
    return dx if needs[0] else None, dweight if needs[1] else None, dbias if needs[2] else None


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


def affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Fully connected layer."""
    y: Array = x @ weight
    return y if bias is None else y + bias


def affine_backward(dy: Array, x: Array, weight: Array, *, needs: Needs = (True, True, True)) -> Gradients:
    """Gradients of `affine`."""
    return (
        dy @ weight.T if needs[0] else None,
        x.T @ dy if needs[1] else None,
        dy.sum(axis=0) if needs[2] else None,
    )


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Fully connected layer with a row of weights per output (torch layout)."""
    return affine(x, weight.T, bias)


def linear_backward(dy: Array, x: Array, weight: Array, *, needs: Needs = (True, True, True)) -> Gradients:
    """Gradients of `linear`."""
    dx, dweight, dbias = affine_backward(dy, x, weight.T, needs=needs)
    return dx, None if dweight is None else dweight.T, dbias


def relu(x: Array) -> Array:
    """0 where x <= 0, else x."""
    return np.where(x <= 0, x.dtype.type(0), x)


def relu_backward(dy: Array, y: Array) -> Array:
    """0 where y <= 0, else dy."""
    return np.where(y <= 0, dy.dtype.type(0), dy)


def softmax_cross_entropy(x: Array, t: Array, epsilon: float = 0.0) -> tuple[float, Array]:
    _, result = _compute_dtype(x)
    shifted = x - x.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    y = np.exp(shifted) / total
    log_y = np.log(y + epsilon) if epsilon > 0 else shifted - np.log(total)
    return float(-(_one_hot(t, y) * log_y).sum() / len(x)), y.astype(result, copy=False)


def softmax_cross_entropy_backward(y: Array, t: Array, scale: float = 1.0) -> Array:
    return (scale * (y - _one_hot(t, y)) / len(y)).astype(y.dtype, copy=False)


def _one_hot(t: Array, y: Array) -> Array:
    return t if t.ndim == 2 else np.equal.outer(t, np.arange(y.shape[1])).astype(y.dtype)
