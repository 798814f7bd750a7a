"""The networks of the comparison as data, from which each library builds its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSES = 10


class Layer(NamedTuple):
    """One layer; images are 2x2 max pooled by "pool", and flattened before the first "dense"."""

    kind: str  # "conv", "relu", "pool", "dense" or "dropout"
    outputs: int = 0  # channels or neurons
    kernel: int = 0
    padding: int = 0
    ratio: float = 0.0  # of neurons that are dropped
    # Those of the layer before, which a Network fills in.
    inputs: int = 0
    size_in: int = 0  # of the images, in pixels

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


class Optimizer(NamedTuple):
    kind: str  # "Adam", with the usual betas, or "SGD"
    lr: float
    momentum: float = 0.0


class Network(NamedTuple):
    """A network, and what it is trained with."""

    layers: list[Layer]
    batch: int
    image: tuple[int, int, int]  # channels, height, width
    optimizer: Optimizer


def _network(batch: int, image: tuple[int, int, int], optimizer: Optimizer, *layers: Layer) -> Network:
    """Return the network with the inputs of every layer filled in."""
    made = []
    channels, size, _ = image
    features = 0
    for layer in layers:
        if layer.kind == "conv":
            made.append(layer._replace(inputs=channels, size_in=size))
            channels, size = layer.outputs, made[-1].size_out
        elif layer.kind == "pool":
            made.append(layer._replace(size_in=size))
            size //= 2
        elif layer.kind == "dense":
            made.append(layer._replace(inputs=features or channels * size**2))
            features = layer.outputs
        else:
            made.append(layer)
    return Network(made, batch, image, optimizer)


def _conv(filters: int, kernel: int, padding: int = 0) -> Layer:
    return Layer("conv", filters, kernel, padding)


def _dense(neurons: int) -> Layer:
    return Layer("dense", neurons)


_RELU, _POOL, _DROP = Layer("relu"), Layer("pool"), Layer("dropout", ratio=0.5)
_MNIST, _CIFAR = (1, 28, 28), (3, 32, 32)

# fmt: off
NETWORKS = {
    "SimpleConvNet": _network(
        100, _MNIST, Optimizer("Adam", 0.001),
        _conv(30, 5), _RELU, _POOL,
        _dense(100), _RELU, _dense(CLASSES),
    ),
    "DeepConvNet": _network(
        100, _MNIST, Optimizer("Adam", 0.001),
        _conv(16, 3, 1), _RELU, _conv(16, 3, 1), _RELU, _POOL,
        _conv(32, 3, 1), _RELU, _conv(32, 3, 2), _RELU, _POOL,
        _conv(64, 3, 1), _RELU, _conv(64, 3, 1), _RELU, _POOL,
        _dense(50), _RELU, _DROP, _dense(CLASSES), _DROP,
    ),
    "Net2": _network(
        64, _MNIST, Optimizer("SGD", 0.01, 0.5),
        _conv(10, 5), _POOL, _RELU,
        _conv(20, 5), _POOL, _RELU,
        _dense(CLASSES),
    ),
    "Keras CNN": _network(
        32, _MNIST, Optimizer("Adam", 0.001),
        _conv(64, 3), _RELU, _POOL,
        _conv(64, 3), _RELU, _POOL,
        _dense(128), _RELU, _dense(CLASSES),
    ),
    "CIFAR Net": _network(
        4, _CIFAR, Optimizer("SGD", 0.001, 0.9),
        _conv(6, 5), _RELU, _POOL,
        _conv(16, 5), _RELU, _POOL,
        _dense(120), _RELU, _dense(84), _RELU, _dense(CLASSES),
    ),
}
# fmt: on


def flops(network: str, training: bool) -> int:
    """Return the operations of a batch: in training three times those of the forward pass, but no dx of the images."""
    layers, batch, *_ = NETWORKS[network]
    forward = sum(layer.flops for layer in layers)
    return batch * (3 * forward - layers[0].flops if training else forward)


def batch(network: str, dtype: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a batch of images and their labels, random."""
    _, size, image, _ = NETWORKS[network]
    rng = np.random.default_rng(0)
    return rng.random((size, *image)).astype(dtype), rng.integers(0, CLASSES, size)


def weights(network: str, dtype: str, layout: str = "NCHW") -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return weight and bias of every convolution and dense layer, in order, by He's rule.

    Dense weights are (in, out).  Filters are (k, c, r, r); with layout "NHWC" they are (r, r, c, k), and the first
    dense layer takes images flattened in that layout, so that the network computes the same numbers.
    """
    rng = np.random.default_rng(1)
    made = []
    size = 0  # of the images that were pooled last
    for layer in NETWORKS[network].layers:
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
