"""Convolution and transposed convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npconv import functional as F
from npconv.functional._gate import IntOrPair, Padding, as_int, as_pair
from npconv.layers import saved
from npconv.nn.module import Array, WeightedModule


class Conv2d(WeightedModule):
    """Two-dimensional convolution, `npconv.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, dilation, groups, padding_mode
        As `npconv.conv2d` has them.
    bias : bool
        Whether to add a number to each output channel.
    rng, dtype
        See `WeightedModule`, which also tells how the weights start.

    Attributes
    ----------
    weight : ndarray, shape (out_channels, in_channels / groups, KH, KW)
    bias : ndarray, shape (out_channels,), or None
    """

    algorithm = "auto"  # of `npconv.conv2d` and its gradients

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        kernel = _checked("Conv2d", in_channels, out_channels, kernel_size, groups)
        super().__init__((out_channels, in_channels // groups, *kernel), out_channels, bias, rng, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.padding_mode = padding_mode
        self.x: Array | None = None

    @property
    def geometry(self) -> tuple[Any, Any, Any, int]:
        """Stride, padding, dilation and groups, in the order of `npconv.conv2d`."""
        return self.stride, self.padding, self.dilation, self.groups

    def forward(self, x: Array) -> Array:
        """Return the convolution of `x`, (N, C, H, W) or (C, H, W)."""
        self.x = x
        return F.conv2d(
            x, self.weight, self.bias, *self.geometry, padding_mode=self.padding_mode, algorithm=self.algorithm
        )

    def backward(self, dy: Array) -> Array | None:
        """Return dx, or None without `needs_dx`; set `grads`."""
        dx, dweight, dbias = F.conv2d_backward(
            dy, saved(self, self.x), self.weight, *self.geometry,
            padding_mode=self.padding_mode, algorithm=self.algorithm,
            needs=(self.needs_dx, True, self.bias is not None),
        )  # fmt: skip
        self.set_gradients(dweight, dbias)
        return dx


class ConvTranspose2d(WeightedModule):
    """Transposed convolution, `npconv.conv_transpose2d`: what a convolution's backward does, as a layer.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, output_padding, groups, dilation
        As `npconv.conv_transpose2d` has them.
    bias : bool
        Whether to add a number to each output channel.
    padding_mode : "zeros"
    rng, dtype
        See `WeightedModule`, which also tells how the weights start.

    Attributes
    ----------
    weight : ndarray, shape (in_channels, out_channels / groups, KH, KW)
    bias : ndarray, shape (out_channels,), or None
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        padding_mode: str = "zeros",
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        kernel = _checked("ConvTranspose2d", in_channels, out_channels, kernel_size, groups)
        if padding_mode != "zeros":
            raise ValueError(f"ConvTranspose2d: padding_mode is {padding_mode!r}; available is 'zeros'")
        super().__init__((in_channels, out_channels // groups, *kernel), out_channels, bias, rng, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.dilation, self.padding_mode = groups, dilation, padding_mode
        self.x: Array | None = None

    @property
    def geometry(self) -> tuple[Any, Any, Any, int, Any]:
        """Stride, padding, output_padding, groups and dilation, in the order of `npconv.conv_transpose2d`."""
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def forward(self, x: Array) -> Array:
        """Return the transposed convolution of `x`, (N, C, H, W) or (C, H, W)."""
        self.x = x
        return F.conv_transpose2d(x, self.weight, self.bias, *self.geometry)

    def backward(self, dy: Array) -> Array | None:
        """Return dx, or None without `needs_dx`; set `grads`."""
        dx, dweight, dbias = F.conv_transpose2d_backward(
            dy, saved(self, self.x), self.weight, *self.geometry, needs=(self.needs_dx, True, self.bias is not None)
        )
        self.set_gradients(dweight, dbias)
        return dx


def _checked(op: str, in_channels: int, out_channels: int, kernel_size: IntOrPair, groups: int) -> tuple[int, int]:
    """Return the kernel size as a pair, or name the argument that makes no weight."""
    kernel = as_pair(op, "kernel_size", kernel_size)
    if min(kernel) < 1:
        raise ValueError(f"{op}: kernel_size is {kernel_size}; it must be at least 1")
    as_int(op, "groups", groups, 1)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if as_int(op, name, channels, 1) % groups:
            raise ValueError(f"{op}: {name} is {channels}; needed is a multiple of groups, which is {groups}")
    return kernel
