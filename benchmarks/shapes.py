"""The shapes that every benchmark measures: layers of well-known networks at the batch sizes of their tutorials."""

from __future__ import annotations

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
]

POOLS = [Pool("max pool 2x2", 100, 30, 24, 2, 2), Pool("max pool 3x3 s2 p1", 8, 64, 112, 3, 2, 1)]
MORE_POOLS = [Pool("max pool 2x2, 112x112", 8, 64, 112, 2, 2)]
