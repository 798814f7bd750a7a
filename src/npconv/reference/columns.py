"""im2col and col2im, unfold and fold."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npconv.reference._windows import Array, compute_dtype, pad, padding_of, pair, taps_of, unpad, windows_of
from npconv.reference.convolution import conv_output_size


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
    kernel, dilation = pair(kernel_size), pair(dilation)
    windows = windows_of(pad(x, padding_of(padding, kernel, dilation)), kernel, pair(stride), dilation)
    n, c, oh, ow, kh, kw = windows.shape
    return cast(Array, windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, oh * ow))


def fold(x: Array, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Array:
    """Add every element of an unfolded image to the pixel it was taken from."""
    if x.ndim == 2:
        return fold(x[np.newaxis], output_size, kernel_size, dilation, padding, stride).squeeze(0)
    kernel, stride, dilation = pair(kernel_size), pair(stride), pair(dilation)
    pads = padding_of(padding, kernel, dilation)
    size = [n + sum(pad) for n, pad in zip(pair(output_size), pads, strict=True)]
    places = [conv_output_size(n, k, s, 0, d) for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    dtype, result_dtype = compute_dtype(x)
    windows = x.reshape(len(x), x.shape[1] // (kernel[0] * kernel[1]), *kernel, *places)
    image = np.zeros((*windows.shape[:2], *size), dtype)
    for r, s, rows, columns in taps_of(kernel, stride, dilation, places):
        image[:, :, rows, columns] += windows[:, :, r, s]
    return cast(Array, unpad(image, pads).astype(result_dtype))
