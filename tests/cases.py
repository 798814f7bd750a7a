"""Random shapes and arguments (hypothesis), and the comparison with `npconv.reference`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

DTYPES = (np.float64, np.float32)


def assert_close(actual: Any, expected: Any, reduction: int = 1) -> None:
    """Assert agreement to rounding: float64 within 1e-12, float32 within 1e-6, times the root of the terms summed."""
    assert actual.shape == expected.shape
    assert actual.flags.c_contiguous
    unit = 1e-12 if actual.dtype == np.float64 else 1e-6
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * unit * scale * max(1, reduction) ** 0.5)


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
