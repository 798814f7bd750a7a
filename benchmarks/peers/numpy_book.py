"""A training step in the way of the book "Deep Learning from Scratch": plain NumPy in float64, im2col and `np.dot`.

What readers of the book have before they meet npconv.  The unfolded images are filled by a loop over the filter's
pixels, each a strided slice of the images; pooling unfolds them too and keeps the place of each maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers import networks
from peers.rows import Makers, Task

Array = NDArray[Any]


def unfold(images: Array, size: int, stride: int, padding: int) -> Array:
    """Return one row per output pixel that holds the pixels under the filter: (n * oh * ow, c * size * size)."""
    n, c, h, w = images.shape
    oh, ow = (h + 2 * padding - size) // stride + 1, (w + 2 * padding - size) // stride + 1
    padded = np.pad(images, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    columns = np.zeros((n, c, size, size, oh, ow), images.dtype)
    for r in range(size):
        for s in range(size):
            columns[:, :, r, s] = padded[:, :, r : r + stride * oh : stride, s : s + stride * ow : stride]
    rows: Array = columns.transpose(0, 4, 5, 1, 2, 3).reshape(n * oh * ow, -1)
    return rows


def fold(rows: Array, shape: tuple[int, ...], size: int, stride: int, padding: int) -> Array:
    """Add the rows back onto images of this shape: the transpose of `unfold`."""
    n, c, h, w = shape
    oh, ow = (h + 2 * padding - size) // stride + 1, (w + 2 * padding - size) // stride + 1
    columns = rows.reshape(n, oh, ow, c, size, size).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), rows.dtype)
    for r in range(size):
        for s in range(size):
            padded[:, :, r : r + stride * oh : stride, s : s + stride * ow : stride] += columns[:, :, r, s]
    return padded[:, :, padding : padding + h, padding : padding + w]


class Conv:
    def __init__(self, weight: Array, bias: Array, padding: int) -> None:
        self.params, self.grads = [weight, bias], [weight, bias]
        self.padding = padding

    def forward(self, x: Array) -> Array:
        weight, bias = self.params
        n, size = len(x), weight.shape[2]
        out = x.shape[2] + 2 * self.padding - size + 1
        self.x_shape, self.columns = x.shape, unfold(x, size, 1, self.padding)
        rows = np.dot(self.columns, weight.reshape(len(weight), -1).T) + bias
        y: Array = rows.reshape(n, out, out, -1).transpose(0, 3, 1, 2)
        return y

    def backward(self, dy: Array) -> Array:
        weight = self.params[0]
        rows = dy.transpose(0, 2, 3, 1).reshape(-1, len(weight))
        self.grads = [np.dot(self.columns.T, rows).T.reshape(weight.shape), rows.sum(axis=0)]
        dcolumns: Array = np.dot(rows, weight.reshape(len(weight), -1))  # the book does so in the first layer too
        return fold(dcolumns, self.x_shape, weight.shape[2], 1, self.padding)


class Dense:
    def __init__(self, weight: Array, bias: Array) -> None:
        self.params, self.grads = [weight, bias], [weight, bias]

    def forward(self, x: Array) -> Array:
        self.x_shape, self.x = x.shape, x.reshape(len(x), -1)
        y: Array = np.dot(self.x, self.params[0]) + self.params[1]
        return y

    def backward(self, dy: Array) -> Array:
        self.grads = [np.dot(self.x.T, dy), dy.sum(axis=0)]
        dx: Array = np.dot(dy, self.params[0].T).reshape(self.x_shape)
        return dx


class Relu:
    def forward(self, x: Array) -> Array:
        self.negative = x <= 0
        y: Array = x.copy()
        y[self.negative] = 0
        return y

    def backward(self, dy: Array) -> Array:
        dy[self.negative] = 0
        return dy


class Pool:
    def forward(self, x: Array) -> Array:
        n, c, h, w = x.shape
        self.x_shape = x.shape
        windows = unfold(x, 2, 2, 0).reshape(-1, 4)
        self.places = windows.argmax(axis=1)
        y: Array = windows.max(axis=1).reshape(n, h // 2, w // 2, c).transpose(0, 3, 1, 2)
        return y

    def backward(self, dy: Array) -> Array:
        dwindows = np.zeros((dy.size, 4), dy.dtype)
        dwindows[np.arange(dy.size), self.places] = dy.transpose(0, 2, 3, 1).ravel()
        return fold(dwindows.reshape(-1, dy.shape[1] * 4), self.x_shape, 2, 2, 0)


class Dropout:
    def __init__(self, ratio: float) -> None:
        self.ratio, self.rng = ratio, np.random.default_rng(2)

    def forward(self, x: Array) -> Array:
        self.kept = self.rng.random(x.shape) > self.ratio
        return x * self.kept

    def backward(self, dy: Array) -> Array:
        return dy * self.kept


class Momentum:
    def __init__(self, params: list[Array], lr: float, momentum: float) -> None:
        self.params, self.lr, self.momentum = params, lr, momentum
        self.v = [np.zeros_like(p) for p in params]

    def update(self, grads: list[Array]) -> None:
        for p, g, v in zip(self.params, grads, self.v, strict=True):
            v *= self.momentum
            v -= self.lr * g
            p += v


class Adam:
    def __init__(self, params: list[Array], lr: float) -> None:
        self.params, self.lr, self.count = params, lr, 0
        self.m, self.v = ([np.zeros_like(p) for p in params] for _ in range(2))

    def update(self, grads: list[Array]) -> None:
        self.count += 1
        rate = self.lr * np.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
        for p, g, m, v in zip(self.params, grads, self.m, self.v, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g**2 - v)
            p -= rate * m / (np.sqrt(v) + 1e-7)


def build(network: str, dtype: str) -> list[Any]:
    """Return the layers of a network."""
    layers: list[Any] = []
    arrays = iter(networks.weights(network, dtype))
    for layer in networks.NETWORKS[network].layers:
        if layer.kind == "conv":
            layers.append(Conv(*next(arrays), layer.padding))
        elif layer.kind == "dense":
            layers.append(Dense(*next(arrays)))
        elif layer.kind == "dropout":
            layers.append(Dropout(layer.ratio))
        else:
            layers.append(Relu() if layer.kind == "relu" else Pool())
    return layers


def training_step(network: str, layers: list[Any], dtype: str) -> Task:
    weighted = [layer for layer in layers if isinstance(layer, (Conv, Dense))]
    params = [param for layer in weighted for param in layer.params]
    kind, lr, momentum = networks.NETWORKS[network].optimizer
    optimizer = Adam(params, lr) if kind == "Adam" else Momentum(params, lr, momentum)
    x, labels = networks.batch(network, dtype)

    def step() -> None:
        y = x
        for layer in layers:
            y = layer.forward(y)
        y = np.exp(y - y.max(axis=1, keepdims=True))
        dy = y / y.sum(axis=1, keepdims=True)
        dy[np.arange(len(x)), labels] -= 1
        dy /= len(x)
        for layer in reversed(layers):
            dy = layer.backward(dy)
        optimizer.update([grad for layer in weighted for grad in layer.grads])

    return step


def tasks(threads: int, dtype: str) -> Makers:
    if dtype != "float64":
        return {}  # the book computes in NumPy's default
    return {"training step": lambda network: {"": training_step(network, build(network, dtype), dtype)}}
