"""npconv against the same operators in plain NumPy (`npconv.reference`), over the shapes of shapes.py, in float32."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest
from peers import npconv as calls
from shapes import CONVS, OPERATORS, POOLS, Conv, Operator, Pool

from npconv import functional, reference

IMPLEMENTATIONS = {"npconv": functional, "numpy": reference}


def measure(benchmark: Any, group: str, implementation: str, function: Any, *arguments: Any, **notes: float) -> None:
    benchmark.group = group
    benchmark.extra_info.update(notes)
    time.sleep(0.1)  # the threads of NumPy's BLAS spin on the cores for a while after their last product
    # NumPy takes seconds for the largest rows: two rounds are enough there.
    rounds = 15 if implementation == "npconv" else 2
    benchmark.pedantic(function, arguments, rounds=rounds, warmup_rounds=2 if implementation == "npconv" else 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def operators(implementation: str) -> ModuleType:
    return IMPLEMENTATIONS[implementation]


@pytest.mark.parametrize("shape", CONVS, ids=lambda shape: shape.name)
def test_conv2d(benchmark: Any, implementation: str, operators: Any, shape: Conv) -> None:
    x, weight, bias, _ = shape.arrays()
    arguments = x, weight, bias, shape.stride, shape.padding
    measure(benchmark, f"conv2d {shape.name}", implementation, operators.conv2d, *arguments, flops=shape.flops)


@pytest.mark.parametrize("shape", CONVS, ids=lambda shape: shape.name)
def test_conv2d_backward(benchmark: Any, implementation: str, operators: Any, shape: Conv) -> None:
    x, weight, _, dy = shape.arrays()
    group, arguments = f"conv2d_backward {shape.name}", (dy, x, weight, shape.stride, shape.padding)
    measure(benchmark, group, implementation, operators.conv2d_backward, *arguments, flops=2 * shape.flops)


@pytest.mark.parametrize("shape", POOLS, ids=lambda shape: shape.name)
def test_max_pool2d(benchmark: Any, implementation: str, operators: Any, shape: Pool) -> None:
    x = shape.array()
    moved = x.nbytes + x.itemsize * shape.n * shape.c * shape.out_size**2
    arguments = x, shape.kernel, shape.stride, shape.padding
    measure(benchmark, f"max_pool2d {shape.name}", implementation, operators.max_pool2d, *arguments, bytes=moved)


@pytest.mark.parametrize("shape", POOLS, ids=lambda shape: shape.name)
def test_max_pool2d_backward(benchmark: Any, implementation: str, operators: Any, shape: Pool) -> None:
    x = shape.array()
    y, indices = functional.max_pool2d(x, shape.kernel, shape.stride, shape.padding, return_indices=True)
    moved = x.nbytes + y.nbytes + indices.nbytes
    arguments = y, indices, x.shape
    group = f"max_pool2d_backward {shape.name}"
    measure(benchmark, group, implementation, operators.max_pool2d_backward, *arguments, bytes=moved)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("shape", [s for group in OPERATORS.values() for s in group], ids=lambda shape: shape.name)
def test_operator(benchmark: Any, implementation: str, operators: Any, shape: Operator, direction: str) -> None:
    backward = direction == "backward"
    task = (calls.backward if backward else calls.forward)(operators, shape, "float32")
    work = {"flops": shape.flops * (1 + backward)} if shape.flops else {"bytes": shape.bytes(4, backward)}
    measure(benchmark, f"{shape.name}, {direction}", implementation, task, **work)
