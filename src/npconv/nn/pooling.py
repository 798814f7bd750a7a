"""Pooling, and max pooling backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npconv import functional as F
from npconv.functional._gate import IntOrPair
from npconv.layers import run_apart, saved
from npconv.nn.module import Array, Module

Shape = tuple[int, ...]


class MaxPool2d(Module):
    """Largest value of each window, `npconv.max_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As `npconv.max_pool2d` has them.
    return_indices : bool
        Whether `forward` returns (y, indices), for `MaxUnpool2d`.

    Attributes
    ----------
    indices : ndarray of int, or None
        Where the last `forward` found each maximum, flat in its H*W plane.  None after `forward` in eval mode: only
        `backward` needs them, and computes them then.
    taps : ndarray of int, or None
        In place of them, in a `Sequential` that runs this layer together with a convolution and ReLU: see
        `npconv.functional.conv2d_relu_max_pool2d`.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode
        self.x: Array | None = None
        self.indices: Array | None = None
        self.taps: Array | None = None
        self.fused_with: Sequence[Any] = ()  # the layers before it that the last forward ran as one with it

    @property
    def window(self) -> tuple[Any, Any, Any, Any, bool]:
        """Kernel size, stride, padding, dilation and ceil mode, in the order of `npconv.max_pool2d`."""
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, x: Array) -> Any:
        """Return the maxima of `x`, (N, C, H, W) or (C, H, W); with `return_indices`, (y, indices)."""
        self.x, self.taps, self.fused_with = x, None, ()
        if self.training or self.return_indices:
            y, self.indices = F.max_pool2d(x, *self.window, return_indices=True)
        else:
            y, self.indices = F.max_pool2d(x, *self.window), None
        return (y, self.indices) if self.return_indices else y

    def backward(self, dy: Array) -> Array:
        """Return dx: every dy added where its maximum was."""
        run_apart(self)
        x = saved(self, self.x)
        if self.indices is None:
            _, self.indices = F.max_pool2d(x, *self.window, return_indices=True)
        return F.max_pool2d_backward(dy, self.indices, np.shape(x))


class MaxUnpool2d(Module):
    """Puts every value where `MaxPool2d` took it from, `npconv.max_unpool2d`; the rest is zeros.

    Parameters
    ----------
    kernel_size, stride, padding
        As given to the `MaxPool2d`.
    """

    def __init__(self, kernel_size: IntOrPair, stride: IntOrPair | None = None, padding: IntOrPair = 0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.indices: Array | None = None
        self.input_shape: Shape = ()

    def forward(self, x: Array, indices: Array, output_size: Sequence[int] | None = None) -> Array:
        """Return an image of `output_size`, by default the smallest that pools to the size of `x`.

        Parameters
        ----------
        x, indices : ndarray, shape (N, C, H, W) or (C, H, W)
            What ``MaxPool2d(..., return_indices=True)`` returned.
        output_size : sequence of int, optional
            Height and width, or the whole shape: that of the image that was pooled.
        """
        y = F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)
        self.indices, self.input_shape = indices, np.shape(x)
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx: the dy at each index."""
        return F.max_unpool2d_backward(dy, saved(self, self.indices), self.input_shape)


class AvgPool2d(Module):
    """Mean of each window, `npconv.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As `npconv.avg_pool2d` has them.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        self.input_shape: Shape | None = None

    @property
    def window(self) -> tuple[Any, ...]:
        """What `npconv.avg_pool2d` takes after x, in its order."""
        return (
            self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override
        )  # fmt: skip

    def forward(self, x: Array) -> Array:
        """Return the means of `x`, (N, C, H, W) or (C, H, W)."""
        y = F.avg_pool2d(x, *self.window)
        self.input_shape = np.shape(x)
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx: every dy in equal parts to the pixels of its window."""
        return F.avg_pool2d_backward(dy, saved(self, self.input_shape), *self.window)


class AdaptiveAvgPool2d(Module):
    """Means over as many windows as the result shall have pixels, `npconv.adaptive_avg_pool2d`.

    Parameters
    ----------
    output_size : int or (int or None, int or None)
        Height and width; None is that of the input.
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size
        self.input_shape: Shape | None = None

    def forward(self, x: Array) -> Array:
        """Return the means of `x`, (N, C, H, W) or (C, H, W)."""
        y = F.adaptive_avg_pool2d(x, self.output_size)
        self.input_shape = np.shape(x)
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx: every dy in equal parts to the pixels of its window."""
        return F.adaptive_avg_pool2d_backward(dy, saved(self, self.input_shape))
