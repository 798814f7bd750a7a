"""Neighbouring layers that are run as one: a convolution and ReLU, and max pooling behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npconv import functional as F
from npconv.functional._gate import as_pair
from npconv.layers import saved

__all__ = ["ConvolutionRelu", "ConvolutionReluPooling", "fuse"]

Array = NDArray[Any]


def fuse(layers: Iterable[Any], kinds: tuple[type, type, type]) -> list[Any]:
    """Return what to run in place of these layers, in order, for the same bits, forward and backward.

    Wherever a convolution, ReLU and max pooling follow each other (or max pooling and then ReLU, which gives the same),
    one `ConvolutionReluPooling` stands for the three.  Then the largest arrays of a network, those between the three,
    never leave the cache.  (Not for a convolution that pads with other than zeros or wants another algorithm, nor for a
    pooling that returns its indices, has windows of more than 254 pixels, or such as may hold no pixel at all, which
    takes padding and dilation.)  For any other convolution before ReLU
    stands a `ConvolutionRelu`.

    Parameters
    ----------
    layers : iterable of layers
    kinds : (type, type, type)
        The classes of convolution, ReLU and max pooling: those of `npconv.layers` or of `npconv.nn`.
    """
    conv_type, relu_type, pool_type = kinds
    steps: list[Any] = []
    for layer in layers:
        steps.append(layer)
        row = steps[-3:]
        types = [type(step) for step in row]
        if types == [conv_type, relu_type, pool_type]:
            conv, relu, pool = row
        elif types == [conv_type, pool_type, relu_type]:
            conv, pool, relu = row
        else:
            continue
        kernel_size, _, padding, dilation, _ = pool.window
        height, width = as_pair("max_pool2d", "kernel_size", kernel_size)
        padded = as_pair("max_pool2d", "padding", padding) != (0, 0)
        dilated = as_pair("max_pool2d", "dilation", dilation) != (1, 1)
        fits = not pool.return_indices and height * width < 255 and not (padded and dilated)
        if conv.padding_mode == "zeros" and conv.algorithm == "auto" and fits:
            steps[-3:] = [ConvolutionReluPooling(conv, relu, pool, row)]
    for i in reversed(range(len(steps) - 1)):
        if type(steps[i]) is conv_type and type(steps[i + 1]) is relu_type:
            steps[i : i + 2] = [ConvolutionRelu(*steps[i : i + 2])]
    return steps


class ConvolutionRelu:
    """A convolution and ReLU, run as one, with the numbers of the two; their state stays in them.

    Parameters
    ----------
    conv, relu : layers
    """

    def __init__(self, conv: Any, relu: Any) -> None:
        self.conv, self.relu = conv, relu

    def forward(self, x: Array) -> Array:
        """Return ReLU of the convolution of `x`."""
        conv, x = self.conv, np.asarray(x)
        options = {"padding_mode": conv.padding_mode, "algorithm": conv.algorithm}
        y = F.conv2d_relu(x, *conv.weights, *conv.geometry, **options)
        conv.x, self.relu.y = x, y
        return y

    def backward(self, dout: Array) -> Array | None:
        """Return dx, or None without the convolution's `needs_dx`; set its gradients."""
        dx: Array | None = self.conv.backward(self.relu.backward(dout))
        return dx


class ConvolutionReluPooling:
    """A convolution, ReLU and max pooling, run as one, with the numbers of the three layers one by one.

    The state stays in the three layers, so weights and gradients are found where they always are.  ReLU's is that of
    the pooled images.  The pooling's are the `taps`, which say where in their windows the maxima lie, None after
    `forward` in eval mode: a `backward` that follows all the same computes them.  Where the three layers are asked for
    their `backward` one by one instead, they first run one by one.

    Parameters
    ----------
    conv, relu, pool : layers
    row : list of layers
        The same three, in their order.
    """

    def __init__(self, conv: Any, relu: Any, pool: Any, row: list[Any]) -> None:
        self.conv, self.relu, self.pool, self.row = conv, relu, pool, row

    def _options(self) -> dict[str, Any]:
        kernel_size, stride, padding, dilation, ceil_mode = self.pool.window
        return {
            "kernel_size": kernel_size,
            "pool_stride": stride,
            "pool_padding": padding,
            "pool_dilation": dilation,
            "ceil_mode": ceil_mode,
        }

    def forward(self, x: Array, train_flg: bool | None = None) -> Array:
        """Return the pooled images (N, K, PH, PW) of `x` (N, C, H, W).

        `train_flg` tells whether this is training; None: what the convolution's mode is.
        """
        x = np.asarray(x)
        if x.ndim == 3:  # a single image, which the operator does not take
            for layer in self.row:
                x = layer.forward(x)
            return x
        conv, pool = self.conv, self.pool
        training = conv.training if train_flg is None else train_flg
        y, pool.taps = F.conv2d_relu_max_pool2d(
            x, *conv.weights, *conv.geometry, **self._options(), return_taps=training
        )
        conv.x, self.relu.y, pool.x, pool.indices = x, y, None, None
        pool.fused_with = self.row[: self.row.index(pool)]
        return y

    def backward(self, dout: Array) -> Array | None:
        """Return dx, or None without the convolution's `needs_dx`; set its gradients."""
        conv, pool = self.conv, self.pool
        x = saved(conv, conv.x)
        if x.ndim == 3:
            for layer in reversed(self.row):
                dout = layer.backward(dout)
            return dout
        weight, bias = conv.weights
        if pool.taps is None:
            _, pool.taps = F.conv2d_relu_max_pool2d(x, weight, bias, *conv.geometry, **self._options())
        needs = conv.needs_dx, True, bias is not None
        dx, *gradients = F.conv2d_relu_max_pool2d_backward(
            dout, pool.taps, x, weight, *conv.geometry, **self._options(), needs=needs
        )
        conv.set_gradients(*gradients)
        return dx
