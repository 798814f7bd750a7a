"""The networks of npconv.models as data, from which each library builds its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH = 100
CLASSES = 10


class Layer(NamedTuple):
    """One layer; images are 2x2 max pooled by "pool", and flattened before the first "dense"."""

    kind: str  # "conv", "relu", "pool", "dense" or "dropout"
    inputs: int = 0  # channels or neurons
    outputs: int = 0
    kernel: int = 0
    padding: int = 0
    size_in: int = 0  # of the images that come in, in pixels
    ratio: float = 0.0  # of neurons that are dropped

    @property
    def size_out(self) -> int:
        return self.size_in + 2 * self.padding - self.kernel + 1

    @property
    def flops(self) -> int:
        """Operations of the forward pass of one image, two per multiply-add."""
        if self.kind == "conv":
            return 2 * self.inputs * self.outputs * self.kernel**2 * self.size_out**2
        return 2 * self.inputs * self.outputs if self.kind == "dense" else 0

    @property
    def fan_in(self) -> int:
        return self.inputs * max(self.kernel, 1) ** 2


def _simple() -> list[Layer]:
    conv = Layer("conv", 1, 30, 5, 0, 28)
    dense = Layer("dense", 30 * 12 * 12, 100), Layer("relu"), Layer("dense", 100, CLASSES)
    return [conv, Layer("relu"), Layer("pool", size_in=24), *dense]


def _deep() -> list[Layer]:
    layers: list[Layer] = []
    channels, size = 1, 28
    for number, (filters, padding) in enumerate([(16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1)], start=1):
        layers += [Layer("conv", channels, filters, 3, padding, size), Layer("relu")]
        channels, size = filters, layers[-2].size_out
        if number % 2 == 0:
            layers.append(Layer("pool", size_in=size))
            size //= 2
    drop = Layer("dropout", ratio=0.5)
    dense = Layer("dense", channels * size**2, 50), Layer("relu"), drop, Layer("dense", 50, CLASSES), drop
    return [*layers, *dense]


NETWORKS = {"SimpleConvNet": _simple(), "DeepConvNet": _deep()}


def flops(network: str, training: bool) -> int:
    """Return the operations of a batch: in training three times those of the forward pass, but no dx of the images."""
    layers = NETWORKS[network]
    forward = sum(layer.flops for layer in layers)
    return BATCH * (3 * forward - layers[0].flops if training else forward)


def batch(dtype: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a batch of images and their labels, random."""
    rng = np.random.default_rng(0)
    return rng.random((BATCH, 1, 28, 28)).astype(dtype), rng.integers(0, CLASSES, BATCH)


def weights(network: str, dtype: str, layout: str = "NCHW") -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return weight and bias of every convolution and dense layer, in order, by He's rule.

    Dense weights are (in, out).  Filters are (k, c, r, r); with layout "NHWC" they are (r, r, c, k), and the first
    dense layer takes images flattened in that layout, so that the network computes the same numbers.
    """
    rng = np.random.default_rng(1)
    made = []
    size = 0  # of the images that were pooled last
    for layer in NETWORKS[network]:
        if layer.kind == "pool":
            size = layer.size_in // 2
        if layer.kind not in ("conv", "dense"):
            continue
        conv = layer.outputs, layer.inputs, layer.kernel, layer.kernel
        shape = conv if layer.kind == "conv" else (layer.inputs, layer.outputs)
        weight = (2 / layer.fan_in) ** 0.5 * rng.standard_normal(shape)
        if layout == "NHWC" and layer.kind == "conv":
            weight = weight.transpose(2, 3, 1, 0)
        elif layout == "NHWC" and size:
            weight = weight.reshape(-1, size, size, layer.outputs).transpose(1, 2, 0, 3).reshape(layer.inputs, -1)
            size = 0
        made.append((np.ascontiguousarray(weight, dtype), np.zeros(layer.outputs, dtype)))
    return made
