"""Windows, taps and padding: what the operators that move a window over an image have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]
Needs = tuple[bool, bool, bool]
Gradients = tuple[Array | None, Array | None, Array | None]

_NUMPY_MODES: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if np.ndim(value) == 0 else (value[0], value[1])


def padding_of(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> list[tuple[int, int]]:
    """Return [(top, bottom), (left, right)]."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    if np.ndim(padding) == 2:
        return [tuple(padding[0]), tuple(padding[1])]
    return [(p, p) for p in pair(padding)]


def pad(x: Array, pads: list[tuple[int, int]], mode: str = "zeros") -> Array:
    return np.pad(x, [(0, 0), (0, 0), *pads], _NUMPY_MODES[mode])


def unpad(padded: Array, pads: list[tuple[int, int]], mode: str = "zeros") -> Any:
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


def compute_dtype(*arrays: Array) -> tuple[Any, Any]:
    """Return the dtype to compute in and the dtype of the result: float16 is computed in float32."""
    dtype = np.result_type(*(a.dtype for a in arrays))
    return (np.dtype(np.float32) if dtype == np.float16 else dtype), dtype


def windows_of(x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return a view (N, C, OH, OW, KH, KW): the pixels under the kernel at each place."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    spans = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    return sliding_window_view(x, spans, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


def taps_of(kernel: Any, stride: Any, dilation: Any, places: Any) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each row and column of the kernel, and the rows and columns of the padded image that it meets."""
    (sh, sw), (dh, dw), (oh, ow) = stride, dilation, places
    for r, s in np.ndindex(*kernel):
        rows, columns = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh), slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
        yield r, s, rows, columns
