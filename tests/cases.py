"""Random shapes and arguments (hypothesis), and the comparison with `npconv.reference`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import npconv
from npconv import functional

DTYPES = (np.float64, np.float32)


def assert_close(actual: Any, expected: Any, reduction: int = 1) -> None:
    """Assert agreement to rounding: float64 within 1e-12, float32 within 1e-6, times the root of the terms summed."""
    assert actual.shape == expected.shape
    assert actual.flags.c_contiguous
    unit = 1e-12 if actual.dtype == np.float64 else 1e-6
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * unit * scale * max(1, reduction) ** 0.5)


def indices_of(
    taps: np.ndarray,
    count: int,
    width: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *_: Any,
) -> np.ndarray:
    """The indices of max_pool2d behind the taps of conv2d_relu_max_pool2d, -1 where ReLU cuts.

    `count` is the number of windows in a row, `width` that of pixels.
    """
    assert taps.dtype == np.int32
    tap = taps.view(np.uint8)[..., :count].astype(int)
    (_, kw), (dh, dw), (ph, pw) = (np.broadcast_to(pair, 2) for pair in (kernel_size, dilation, padding))
    sh, sw = np.broadcast_to(kernel_size if stride is None else stride, 2)
    row = np.arange(tap.shape[2])[:, None] * sh - ph + tap // kw * dh
    column = np.arange(count) * sw - pw + tap % kw * dw
    return np.where(tap == 255, -1, row * width + column)


class ConvCase(NamedTuple):
    """A convolution that fits: arrays (float64) and arguments."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def reduction(self) -> int:
        return int(np.prod(self.weight.shape[1:])) + 1


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    kernel, stride, dilation = draw(pairs(1, 5)), draw(pairs(1, 4)), draw(pairs(1, 3))
    padding = draw(st.tuples(pairs(0, 5), pairs(0, 5)))
    size = []
    for k, d, (before, after) in zip(kernel, dilation, padding, strict=True):
        least = max(1, d * (k - 1) + 1 - before - after)
        size.append(least + draw(st.integers(0, 40 if len(size) else 12)))
    groups = draw(st.integers(1, 3))
    # Around the tile sizes: up to 14 rows of 32 columns.
    in_channels, out_channels = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 34))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return ConvCase(
        rng.standard_normal((draw(st.integers(0, 4)), in_channels, *size)),
        rng.standard_normal((out_channels, in_channels // groups, *kernel)),
        rng.standard_normal(out_channels) if draw(st.booleans()) else None,
        stride,
        padding,
        dilation,
        groups,
    )


class PoolCase(NamedTuple):
    """A pooling that fits; the values repeat, so that there are ties."""

    x: np.ndarray
    arguments: tuple[Any, ...]  # kernel_size, stride, padding, dilation, ceil_mode


@st.composite
def pool_cases(draw: st.DrawFn) -> PoolCase:
    kernel, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 4)), draw(pairs(1, 3))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = [
        max(1, span - 2 * pad) + draw(st.integers(0, extra))
        for span, pad, extra in zip(spans, padding, (10, 40), strict=True)
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = draw(st.sampled_from([[-2, -1, 0, 1, 2], [-np.inf, -np.inf, 0], [np.nan, -np.inf, -1, 0, 1, np.inf]]))
    shape = draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size
    return PoolCase(
        rng.choice(np.array(values, float), shape), (kernel, stride, padding, dilation, draw(st.booleans()))
    )


# ---- what every operator is held to ----


def assert_same_bits(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (e.dtype, e.shape, e.tobytes())


def assert_threads_change_no_bit(call: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """Return what `call` gives on any number of threads."""
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            results.append(call())
    for other in results[1:]:
        assert_same_bits(other, results[0])
    return results[0]


def assert_fusing_changes_no_bit(arrays: Sequence[np.ndarray], window: tuple[int, int], **conv: Any) -> None:
    """Hold convolution of (x, weight, bias), ReLU and max pooling in one against one after the other, both ways."""
    x, weight, bias = arrays
    options = {**conv, "kernel_size": window[0], "pool_stride": window[1]}
    y, taps = functional.conv2d_relu_max_pool2d(x, weight, bias, **options)
    z = functional.relu(npconv.conv2d(x, weight, bias, **conv))
    pooled, at = npconv.max_pool2d(z, *window, return_indices=True)
    dy = np.random.default_rng(9).standard_normal(y.shape).astype(y.dtype)
    dz = functional.relu_backward(npconv.max_pool2d_backward(dy, at, z.shape), z)
    assert_same_bits([y, functional.conv2d_relu(x, weight, bias, **conv)], [pooled, z])
    for needs in ((True, True, True), (False, False, True)):
        fused = functional.conv2d_relu_max_pool2d_backward(dy, taps, x, weight, **options, needs=needs)
        one_by_one = npconv.conv2d_backward(dz, x, weight, **conv, needs=needs)
        assert [g is None for g in fused] == [g is None for g in one_by_one] == [not n for n in needs]
        assert_same_bits([g for g in fused if g is not None], [g for g in one_by_one if g is not None])


def odd_copies(a: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the same values in other layouts."""
    yield a.T.copy().T
    yield np.flip(np.flip(a).copy())
    yield np.repeat(a, 2, axis=-1)[..., ::2]
    yield a.astype(a.dtype.newbyteorder(">"))
    read_only = a.copy()
    read_only.flags.writeable = False
    yield read_only


def assert_layout_changes_no_bit(call: Callable[..., Sequence[Any]], *arrays: np.ndarray) -> None:
    """Assert that the arrays in odd layouts give the same results, and are not written to."""
    expected = call(*arrays)
    for odd in zip(*map(odd_copies, arrays), strict=True):
        assert_same_bits(call(*odd), expected)
        for a, original in zip(odd, arrays, strict=True):
            np.testing.assert_array_equal(a, original)


def assert_float16_is_computed_in_float32(call: Callable[..., Sequence[Any]], *arrays: np.ndarray) -> None:
    """Assert that float16 gives what float32 gives, rounded; arrays of integers stay as they are."""
    halves = [a.astype(np.float16) if a.dtype.kind == "f" else a for a in arrays]
    expected = call(*(a.astype(np.float32) if a.dtype.kind == "f" else a for a in halves))
    assert_same_bits(call(*halves), [e.astype(np.float16) for e in expected])


def numerical_gradient(
    function: Callable[[], np.ndarray], parameter: np.ndarray, dy: np.ndarray, step: float = 0.5
) -> np.ndarray:
    """Central differences of the sum of function() * dy; if function is linear they are exact but for rounding."""
    gradient = np.empty_like(parameter)
    for i in np.ndindex(parameter.shape):
        value, sums = parameter[i], []
        for h in (step, -step):
            parameter[i] = value + h
            sums.append(float((function() * dy).sum()))
        parameter[i] = value
        gradient[i] = (sums[0] - sums[1]) / (2 * step)
    return gradient


# ---- more operators ----


class TransposeCase(NamedTuple):
    """A transposed convolution whose result has pixels: arrays (float64) and arguments."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    arguments: tuple[Any, ...]  # stride, padding, output_padding, groups, dilation


@st.composite
def conv_transpose_cases(draw: st.DrawFn) -> TransposeCase:
    kernel, stride, dilation = draw(pairs(1, 5)), draw(pairs(1, 4)), draw(pairs(1, 3))
    size = draw(st.integers(1, 10)), draw(st.integers(1, 35))
    padding, output_padding = [], []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        extra = draw(st.integers(0, max(s, d) - 1))
        full = (n - 1) * s + d * (k - 1) + 1 + extra
        before = draw(st.integers(0, min(5, full - 1)))
        padding.append((before, draw(st.integers(0, min(5, full - 1 - before)))))
        output_padding.append(extra)
    groups = draw(st.integers(1, 4))
    in_channels, out_channels = groups * draw(st.integers(1, 20)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return TransposeCase(
        rng.standard_normal((draw(st.integers(0, 3)), in_channels, *size)),
        rng.standard_normal((in_channels, out_channels, *kernel)),
        rng.standard_normal(groups * out_channels) if draw(st.booleans()) else None,
        (stride, tuple(padding), tuple(output_padding), groups, dilation),
    )


@st.composite
def avg_pool_cases(draw: st.DrawFn) -> PoolCase:
    """x, and kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override."""
    kernel = draw(pairs(1, 6))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = [
        max(1, k - 2 * pad) + draw(st.integers(0, extra))
        for k, pad, extra in zip(kernel, padding, (10, 40), strict=True)
    ]
    shape = draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size
    options = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([None, None, 1, 7, -3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return PoolCase(rng.standard_normal(shape), (kernel, draw(pairs(1, 7)), padding, *options))
