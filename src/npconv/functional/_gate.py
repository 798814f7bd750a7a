"""The gate: whatever the caller passes is checked and brought into one form here, once.

Arrays get a common floating dtype, C-contiguous, in native byte order and with four axes; numbers become ints and
pairs of ints.  Errors name the operator, the argument, what was given and what is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npconv import _core

Array = NDArray[Any]
IntOrPair = SupportsIndex | Sequence[SupportsIndex]
Padding = IntOrPair | Sequence[Sequence[SupportsIndex]] | str
Needs = tuple[bool, bool, bool]

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
I64 = np.dtype(np.int64)
_LIMIT = 2**31  # sizes stay below it, so that no sum or product of two overflows in C++


# ---- the gate: arrays ----


def promote(op: str, names: tuple[str, ...], *arrays: ArrayLike) -> tuple[tuple[Array, ...], np.dtype[Any]]:
    """Return the arrays in the dtype to compute in, ready for the compiled code, and the dtype to return."""
    dtype = _core.ready_dtype(*arrays)
    if dtype is F32 or dtype is F64:  # nothing to do, and it is known at once: small networks are many small calls
        return cast("tuple[Array, ...]", arrays), dtype
    given = [as_array(op, name, a) for name, a in zip(names, arrays, strict=True)]
    try:
        result = np.result_type(*(a.dtype for a in given))
    except TypeError:  # of dates, for example
        result = np.dtype(object)
    if result not in (F16, F32, F64):
        text = ", ".join(f"{name} is {array.dtype}" for name, array in zip(names, given, strict=True))
        raise TypeError(f"{op}: {text}; needed is float32, float64 or float16 (convert with .astype(np.float32))")
    dtype = F64 if result == F64 else F32
    return tuple(as_dtype(op, name, array, dtype) for name, array in zip(names, given, strict=True)), result


def as_array(op: str, name: str, array: ArrayLike) -> Array:
    try:
        return np.asarray(array)
    except ValueError:
        raise ValueError(f"{op}: {name} is {array!r}; needed is an array, all rows of the same length") from None


def as_dtype(op: str, name: str, array: ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Return the array in `dtype`, C-contiguous and aligned; a copy only where it is not so yet."""
    if _core.ready_dtype(array) is dtype:
        return cast(Array, array)
    array = as_array(op, name, array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{op}: {name} is {array.dtype}; needed are real numbers")
    return np.require(array, dtype, ["C", "A"])


def as_bias(op: str, bias: ArrayLike | None, dtype: np.dtype[Any]) -> Array | None:
    return None if bias is None else as_dtype(op, "bias", bias, dtype)


def as_indices(op: str, indices: Array) -> Array:
    """Return the indices of the forward pass in int64, as they are if they are ready."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices are {indices.dtype}; needed are the int64 indices of the forward pass")
    if indices.dtype == np.uint64 and indices.size and indices.max() >= 2**63:
        raise ValueError(f"{op}: indices hold {indices.max()}; needed are the int64 indices of the forward pass")
    return indices if _core.ready_dtype(indices) == I64 else np.require(indices, I64, ["C", "A"])


def require_axes(op: str, name: str, array: Array, allowed: str, *counts: int) -> None:
    if array.ndim not in counts:
        raise ValueError(f"{op}: {name} has shape {array.shape}; needed is {allowed}")


def as_images(op: str, name: str, array: Array) -> tuple[Array, bool]:
    """Return the array as (N, C, H, W), and whether it was a single image (C, H, W)."""
    if array.ndim == 4:
        return array, False
    require_axes(op, name, array, "(N, C, H, W) or (C, H, W)", 3)
    return array[np.newaxis], True


def as_gradient(op: str, dy: ArrayLike, dtype: np.dtype[Any], single: bool) -> Array:
    """Return dy as (N, K, OH, OW); ValueError unless it is a single image as x is, or a batch as x is."""
    dy, single_dy = as_images(op, "dy", as_dtype(op, "dy", dy, dtype))
    if single != single_dy:
        raise ValueError(f"{op}: of x and dy one is a single image and the other a batch")
    return dy


def finish(array: Array, dtype: np.dtype[Any], single: bool = False) -> Array:
    """Give a result the dtype and the number of axes that the caller expects."""
    if array.dtype is not dtype:
        array = array.astype(dtype, copy=False)
    return array[0] if single else array


def finish_gradients(
    dtype: np.dtype[Any], dx: Array | None, dweight: Array | None, dbias: Array | None, single: bool = False
) -> tuple[Array | None, Array | None, Array | None]:
    """`finish` each gradient that is there."""
    return (
        None if dx is None else finish(dx, dtype, single),
        None if dweight is None else finish(dweight, dtype),
        None if dbias is None else finish(dbias, dtype),
    )


# ---- the gate: numbers ----


def as_int(op: str, name: str, value: Any, least: int | None = None) -> int:
    if type(value) is int and (least or 0) <= value < _LIMIT:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}; needed is an int") from None
    if abs(number) >= _LIMIT:
        raise ValueError(f"{op}: {name} is {number}; it must be below 2**31")
    if least is not None and number < least:
        raise ValueError(f"{op}: {name} is {number}; it must be at least {least}")
    return number


def as_float(op: str, name: str, value: Any) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{op}: {name} is {value!r}; needed is a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} is beyond the range of float64") from None
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is {value!r}; needed is a number") from None


def _is_row(value: Any) -> bool:
    """Return whether a value is a sequence of others."""
    if isinstance(value, (str, bytes)):
        return False
    return isinstance(value, Sequence) or np.ndim(value) > 0


def as_pair(op: str, name: str, value: Any) -> tuple[int, int]:
    """Return (vertical, horizontal) for an int or a pair."""
    if type(value) is int and 0 <= value < _LIMIT:
        return value, value
    if type(value) is tuple and len(value) == 2:
        return as_int(op, name, value[0]), as_int(op, name, value[1])
    if _is_row(value):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} is {value!r}; needed is an int or a pair (vertical, horizontal)")
        return as_int(op, name, value[0]), as_int(op, name, value[1])
    try:
        number = as_int(op, name, value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}; needed is an int or a pair (vertical, horizontal)") from None
    return number, number


def as_padding(
    op: str, padding: Any, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right); `kernel` ends in height and width."""
    if type(padding) is int and 0 <= padding < _LIMIT:
        return padding, padding, padding, padding
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise ValueError(
                f"{op}: padding is {padding!r}; needed is an int, a pair, ((top, bottom), (left, right)), "
                "'valid' or 'same'"
            )
        if stride != (1, 1):
            raise ValueError(f"{op}: padding='same' needs stride 1, stride is {stride}")
        # What is left over of an odd total goes to the bottom and to the right, as in PyTorch.
        total_h, total_w = dilation[0] * (kernel[-2] - 1), dilation[1] * (kernel[-1] - 1)
        return total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2
    if _is_row(padding) and len(padding) == 2 and _is_row(padding[0]):
        if not _is_row(padding[1]):
            raise ValueError(f"{op}: padding is {padding!r}; needed is ((top, bottom), (left, right))")
        top, bottom = as_pair(op, "padding", padding[0])
        left, right = as_pair(op, "padding", padding[1])
        return top, bottom, left, right
    vertical, horizontal = as_pair(op, "padding", padding)
    return vertical, vertical, horizontal, horizontal


def as_shape(op: str, name: str, shape: Any, *counts: int) -> tuple[int, ...]:
    try:
        sizes = tuple(as_int(op, name, size) for size in shape)
    except TypeError:
        raise TypeError(f"{op}: {name} is {shape!r}; needed is a tuple of ints") from None
    if len(sizes) not in counts or min(sizes) < 0:
        raise ValueError(f"{op}: {name} is {shape!r}; needed is {' or '.join(map(str, counts))} sizes")
    return sizes


def as_needs(op: str, needs: Any) -> tuple[bool, bool, bool]:
    try:
        first, second, third = needs
    except (TypeError, ValueError):
        raise ValueError(f"{op}: needs is {needs!r}; needed are three bools, for dx, dweight and dbias") from None
    return bool(first), bool(second), bool(third)


def geometry_of(
    op: str, weight: Array, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]:
    """Return the numbers of a convolution with these weights: stride, padding, dilation and groups."""
    require_axes(op, "weight", weight, "(K, C / groups, KH, KW)", 4)
    stride, dilation = as_pair(op, "stride", stride), as_pair(op, "dilation", dilation)
    return stride, as_padding(op, padding, weight.shape, stride, dilation), dilation, as_int(op, "groups", groups)


def windows_of(
    op: str, kernel_size: Any, names: tuple[str, str, str], stride: Any, padding: Any, dilation: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the numbers of a pooling: kernel size, and stride, padding and dilation, which go by these names."""
    kernel = as_pair(op, "kernel_size", kernel_size)
    return (
        kernel,
        kernel if stride is None else as_pair(op, names[0], stride),
        as_pair(op, names[1], padding),
        as_pair(op, names[2], dilation),
    )
