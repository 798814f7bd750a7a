"""The rows of the comparison: what is measured, in which group it is counted, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from shapes import CONVS, MORE_CONVS, MORE_POOLS, OPERATORS, POOLS, Conv, Operator, Pool

from peers import networks

Task = Callable[[], Any]
Variants = dict[str, Task]  # the ways to do a row, by name: "" where there is one
Makers = dict[str, Callable[[Any], Variants]]  # by kind of row, from its subject

# Of the float64 rows: a first layer, small images, large images, many channels, a stride.
FLOAT64 = ["book conv1", "keras conv2", "vgg conv1_2", "resnet 256", "stride 2"]


class Row(NamedTuple):
    name: str
    group: str  # the mean is taken over its rows
    kind: str  # "training step", "inference", or "conv", "pool" or "operator" with "forward" or "backward" behind it
    subject: Any  # the name of a network, or a Conv, a Pool or an Operator
    dtype: str

    @property
    def flops(self) -> int:
        """Multiplications and additions of convolutions and matrix products; 0 where there is neither."""
        if isinstance(self.subject, (Conv, Operator)):
            return self.subject.flops * (2 if self.kind.endswith("backward") else 1)
        if isinstance(self.subject, Pool):
            return 0
        return networks.flops(self.subject, self.kind == "training step")

    @property
    def bytes(self) -> int:
        """What must be read or written at least, each array once; 0 for networks, whose arrays stay in the caches."""
        s, itemsize = self.subject, np.dtype(self.dtype).itemsize
        if isinstance(s, Conv):
            x, y, weight = s.n * s.c * s.size**2, s.n * s.k * s.out_size**2, s.k * (s.c * s.kernel**2 + 1)
            # backward: dy, x and the weight are read, dx and dweight written
            return itemsize * (2 * x + y + 2 * weight if self.kind == "conv backward" else x + y + weight)
        if isinstance(s, Pool):
            x, y = s.n * s.c * s.size**2, s.n * s.c * s.out_size**2
            indices = 8 * y if self.kind == "pool backward" else 0  # as npconv hands them out
            return itemsize * (x + y) + indices
        return s.bytes(itemsize, self.kind == "operator backward") if isinstance(s, Operator) else 0


def all_rows(dtype: str = "float32") -> list[Row]:
    """Return every row: those in `dtype`, and, beside float32, a few in float64."""
    rows = []

    def add(kinds: str, subjects: list[Any], note: str = "", of: str = dtype) -> None:
        mark = ", float64" if of == "float64" else ""
        for subject in subjects:
            for kind in kinds.split(" + "):
                name = subject if isinstance(subject, str) else subject.name
                rows.append(Row(f"{kind}: {name}{mark}", f"{kind}{note}{mark}", kind, subject, of))

    add("conv forward + conv backward", CONVS)
    add("conv forward + conv backward", MORE_CONVS, ", more shapes")
    add("pool forward + pool backward", POOLS)
    add("pool forward", MORE_POOLS)
    for group, operators in OPERATORS.items():
        add("operator forward + operator backward", operators, f", {group}")
    add("training step", list(networks.NETWORKS))
    add("inference", list(networks.NETWORKS))
    if dtype == "float32":
        add("conv forward + conv backward", [shape for shape in CONVS if shape.name in FLOAT64], of="float64")
        add("training step", ["SimpleConvNet"], of="float64")
    return rows
