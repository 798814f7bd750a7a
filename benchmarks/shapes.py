"""The shapes that every benchmark measures: layers of well-known networks at the batch sizes of their tutorials."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Conv(NamedTuple):
    """A square convolution: x (n, c, size, size), weight (k, c, kernel, kernel)."""

    name: str
    n: int
    c: int
    size: int
    k: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        """Floating point operations of one direction (forward, dx or dweight): two per multiply-add."""
        return 2 * self.n * self.k * self.out_size**2 * self.c * self.kernel**2

    def arrays(self, dtype: Any = np.float32) -> tuple[Array, Array, Array, Array]:
        """Return x, weight, bias and dy, random."""
        rng = np.random.default_rng(0)
        shapes = (
            (self.n, self.c, self.size, self.size),
            (self.k, self.c, self.kernel, self.kernel),
            (self.k,),
            (self.n, self.k, self.out_size, self.out_size),
        )
        x, weight, bias, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return x, weight, bias, dy


class Pool(NamedTuple):
    """Max pooling of square images: x (n, c, size, size)."""

    name: str
    n: int
    c: int
    size: int
    kernel: int
    stride: int
    padding: int = 0

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    def array(self, dtype: Any = np.float32) -> Array:
        return np.random.default_rng(0).standard_normal((self.n, self.c, self.size, self.size)).astype(dtype)


class Operator(NamedTuple):
    """Any other operator: its name in npconv (and, it so happens, in PyTorch), shapes and keyword arguments."""

    name: str
    operator: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    options: dict[str, Any]
    weight: tuple[int, ...] = ()  # where there is one, there also is a bias

    @property
    def flops(self) -> int:
        """Floating point operations of one direction of a convolution, two per multiply-add; 0 for others."""
        pixels = {"conv2d": self.y, "conv_transpose2d": self.x}.get(self.operator)
        return 2 * prod(pixels) * prod(self.weight[1:]) if pixels else 0

    def bytes(self, itemsize: int, backward: bool) -> int:
        """What must be read or written at least in one direction, each array once."""
        elements = prod(self.x) + prod(self.y)  # or dy and dx
        weights = prod(self.weight) + self.y[1] if self.weight else 0
        if backward and (self.weight or self.operator == "local_response_norm"):
            elements += prod(self.x)  # on which the gradients depend
            weights *= 2
        indices = 8 * prod(self.x) if self.operator == "max_unpool2d" else 0
        return itemsize * (elements + weights) + indices

    def arrays(self, dtype: Any = np.float32) -> tuple[list[Array], Array]:
        """Return what the operator takes (x, and weight and bias, or indices), and dy: random."""
        rng = np.random.default_rng(0)
        shapes = [self.y, self.x, *([self.weight, self.y[1:2]] if self.weight else [])]
        dy, *inputs = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        if self.operator == "max_unpool2d":  # to one pixel of each window
            size, (row, column) = self.options["kernel_size"], np.indices(self.x)[2:]
            row, column = (place * size + rng.integers(size, size=self.x) for place in (row, column))
            inputs.append(row * self.y[3] + column)
        return inputs, dy


CONVS = [
    Conv("book conv1", 100, 1, 28, 30, 5),
    Conv("net2 conv2", 64, 10, 12, 20, 5),
    Conv("keras conv1", 32, 1, 28, 64, 3),
    Conv("keras conv2", 32, 64, 13, 64, 3),
    Conv("cifar conv1", 4, 3, 32, 6, 5),
    Conv("cifar conv2", 4, 6, 14, 16, 5),
    Conv("alexnet conv1", 8, 3, 224, 64, 11, 4, 2),
    Conv("vgg conv1_1", 4, 3, 224, 64, 3, 1, 1),
    Conv("vgg conv1_2", 4, 64, 224, 64, 3, 1, 1),
    Conv("resnet 64", 8, 64, 56, 64, 3, 1, 1),
    Conv("resnet 128", 8, 128, 28, 128, 3, 1, 1),
    Conv("resnet 256", 8, 256, 14, 256, 3, 1, 1),
    Conv("resnet 512", 8, 512, 7, 512, 3, 1, 1),
    Conv("1x1", 8, 256, 56, 64, 1),
    Conv("resnet stem", 8, 3, 224, 64, 7, 2, 3),
    Conv("stride 2", 8, 128, 56, 128, 3, 2, 1),
]

# Shapes like those, of sizes that no kernel was tuned for: they tell whether the others were.
MORE_CONVS = [
    Conv("3x3, 48 to 96, 27x27", 8, 48, 27, 96, 3, 1, 1),
    Conv("3x3, 64 to 64, batch 1", 1, 64, 56, 64, 3, 1, 1),
    Conv("3x3, 192 to 384, 13x13", 8, 192, 13, 384, 3, 1, 1),
    Conv("3x3, 24 to 40, no padding", 16, 24, 45, 40, 3),
    Conv("5x5, 32 to 32, 28x28", 16, 32, 28, 32, 5, 1, 2),
    Conv("1x1, 128 to 256, stride 2", 8, 128, 57, 256, 1, 2),
    Conv("1x1, 512 to 512, 14x14", 8, 512, 14, 512, 1),
    Conv("7x7, 3 to 48, stride 2", 8, 3, 160, 48, 7, 2, 3),
    Conv("3x3, 256 to 512, stride 2", 8, 256, 14, 512, 3, 2, 1),
]

POOLS = [Pool("max pool 2x2", 100, 30, 24, 2, 2), Pool("max pool 3x3 s2 p1", 8, 64, 112, 3, 2, 1)]
MORE_POOLS = [Pool("max pool 2x2, 112x112", 8, 64, 112, 2, 2)]

# By the groups whose means are taken.
# fmt: off
OPERATORS = {
    "average pooling": [
        Operator("avg pool 2x2, 24x24", "avg_pool2d", (100, 30, 24, 24), (100, 30, 12, 12), {"kernel_size": 2}),
        Operator("avg pool 3x3 s2 p1", "avg_pool2d", (8, 64, 112, 112), (8, 64, 56, 56),
                 {"kernel_size": 3, "stride": 2, "padding": 1}),
        Operator("avg pool 2x2, 112x112", "avg_pool2d", (8, 64, 112, 112), (8, 64, 56, 56), {"kernel_size": 2}),
    ],
    "adaptive average pooling": [
        Operator("adaptive avg pool 7 to 1", "adaptive_avg_pool2d", (8, 512, 7, 7), (8, 512, 1, 1), {"output_size": 1}),
        Operator("adaptive avg pool 13 to 6", "adaptive_avg_pool2d", (8, 256, 13, 13), (8, 256, 6, 6),
                 {"output_size": 6}),
    ],
    "unpooling and unfolding": [
        Operator("max unpool 2x2", "max_unpool2d", (8, 64, 56, 56), (8, 64, 112, 112), {"kernel_size": 2}),
        Operator("unfold 3x3 p1", "unfold", (8, 64, 56, 56), (8, 576, 3136), {"kernel_size": 3, "padding": 1}),
        Operator("fold 3x3 p1", "fold", (8, 576, 3136), (8, 64, 56, 56),
                 {"output_size": 56, "kernel_size": 3, "padding": 1}),
    ],
    "normalization": [
        Operator("local response norm", "local_response_norm", (8, 96, 55, 55), (8, 96, 55, 55),
                 {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}),
        Operator("batch norm", "batch_norm", (8, 64, 56, 56), (8, 64, 56, 56), {}, (64,)),
    ],
    "transposed convolution": [
        Operator("transposed conv 4x4 s2 p1", "conv_transpose2d", (8, 128, 28, 28), (8, 64, 56, 56),
                 {"stride": 2, "padding": 1}, (128, 64, 4, 4)),
        Operator("transposed conv 4x4 s2 p1, depthwise", "conv_transpose2d", (8, 64, 28, 28), (8, 64, 56, 56),
                 {"stride": 2, "padding": 1, "groups": 64}, (64, 1, 4, 4)),
    ],
    "dilated convolution": [
        Operator("conv 3x3 p2, dilation 2", "conv2d", (8, 64, 56, 56), (8, 64, 56, 56),
                 {"padding": 2, "dilation": 2}, (64, 64, 3, 3)),
        Operator("conv 3x3 p6, dilation 6", "conv2d", (4, 256, 33, 33), (4, 256, 33, 33),
                 {"padding": 6, "dilation": 6}, (256, 256, 3, 3)),
    ],
    "grouped convolution": [
        Operator("conv 3x3 p1, depthwise", "conv2d", (8, 128, 28, 28), (8, 128, 28, 28),
                 {"padding": 1, "groups": 128}, (128, 1, 3, 3)),
        Operator("conv 3x3 s2 p1, depthwise", "conv2d", (8, 128, 56, 56), (8, 128, 28, 28),
                 {"stride": 2, "padding": 1, "groups": 128}, (128, 1, 3, 3)),
        Operator("conv 3x3 s2 p1, depthwise, 14x14", "conv2d", (16, 256, 14, 14), (16, 256, 7, 7),
                 {"stride": 2, "padding": 1, "groups": 256}, (256, 1, 3, 3)),
        Operator("conv 3x3 p1, 32 groups", "conv2d", (8, 64, 56, 56), (8, 64, 56, 56),
                 {"padding": 1, "groups": 32}, (64, 2, 3, 3)),
    ],
}
# fmt: on
