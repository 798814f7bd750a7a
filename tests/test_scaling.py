"""benchmarks/scaling.py and cuts.py: the model's formulas with made-up numbers, nothing is timed."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("the benchmarks are not here: they come with the source tree", allow_module_level=True)


@pytest.fixture
def cuts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cuts")


@pytest.fixture
def scaling(cuts):
    return importlib.import_module("scaling")


ENDLESS = float("inf")


@pytest.mark.parametrize(("tasks", "threads", "expected"), [(3, 2, 4 / 3), (4, 2, 1), (1, 2, 2), (65, 64, 128 / 65)])
def test_imbalance(scaling, tasks, threads, expected):
    assert scaling.imbalance(tasks, threads) == pytest.approx(expected)


def test_scaling_is_perfect_where_nothing_limits(scaling, cuts):
    for threads in 1, 2, 64:
        done = scaling.predict(scaling.Work(0, 1.0, 1e9), [cuts.Loop(6400, 1e9)], scaling.Machine(threads, ENDLESS, 0))
        assert done == (pytest.approx(1 / threads), "compute")


def test_memory_is_a_plateau(scaling, cuts):
    work, parts = scaling.Work(0, 1.0, 1e9), [cuts.Loop(6400, 1e9)]
    for threads in 16, 64:  # 1e9 bytes at 1e10 a second
        assert scaling.predict(work, parts, scaling.Machine(threads, 1e10, 0)) == (pytest.approx(0.1), "memory")
    # A bandwidth that could not be measured limits nothing.
    assert scaling.predict(work, parts, scaling.Machine(64, float("nan"), 0)).limit == "compute"


def test_few_tasks_and_little_work_leave_threads_idle(scaling, cuts):
    work = scaling.Work(0, 1.0, 0)
    done = scaling.predict(work, [cuts.Loop(3, 1e9)], scaling.Machine(2, ENDLESS, 0))
    assert done == (pytest.approx(2 / 3), "imbalance")
    # 20 microseconds of work wake four threads at most, and what is too little for two is done by one.
    assert scaling.threads_used(cuts.Loop(100, 20_000), 64) == 4
    assert scaling.threads_used(cuts.Loop(100, 9_000), 64) == 1
    # Of two loops each takes its part of the time: here the second is a tenth of the work and stays on one thread.
    done = scaling.predict(work, [cuts.Loop(64, 9e6), cuts.Loop(1, 1e6)], scaling.Machine(64, ENDLESS, 0))
    assert done == (pytest.approx(0.9 / 64 + 0.1), "imbalance")


def test_overhead_grows_with_the_logarithm_of_the_threads(scaling, cuts):
    work, parts = scaling.Work(2e-6, 1e-4, 0), [cuts.Loop(640, 1e6)]
    two, many = (scaling.predict(work, parts, scaling.Machine(threads, ENDLESS, 1e-6)) for threads in (2, 64))
    assert two.seconds == pytest.approx(2e-6 + 1e-6 + 5e-5)
    assert many == (pytest.approx(2e-6 + 6e-6 + 1e-4 / 64), "overhead")


def test_other_sockets_read_through_the_links(scaling):
    assert scaling.bandwidth(1, 200, 100) == 200
    assert scaling.bandwidth(2, 200, 100) == 200
    assert scaling.bandwidth(4, 200, 75) == 100


def test_tasks_are_counted_as_they_are_cut(cuts):
    shapes = importlib.import_module("shapes")
    convs = {shape.name: shape for shape in shapes.CONVS}
    # The sums for dweight are cut by the shape alone.
    splits = {cuts.weight_gradient_loops(convs["vgg conv1_1"], threads)[1] for threads in (1, 2, 64)}
    assert len(splits) == 1
    # The data gradient for few channels: a whole image, or some of its rows.
    assert cuts.data_gradient_loops(convs["book conv1"], 64)[0].tasks == 100
    assert cuts.data_gradient_loops(convs["vgg conv1_1"], 64)[0].tasks == 12
    # AlexNet's is one of 3x3 and 48 channels, by Winograd's algorithm: the weights, and blocks of its tiles of 5x5.
    weights, blocks = cuts.forward_loops(convs["alexnet conv1"], 2)
    assert (weights.tasks, blocks.tasks) == (2, 44)
    # Two loops for each of the four phases of a stride: before the product, the weights are packed or transformed.
    assert len(cuts.data_gradient_loops(convs["stride 2"], 2)) == 8
    kinds = {"conv": [*shapes.CONVS, *shapes.MORE_CONVS], "pool": [*shapes.POOLS, *shapes.MORE_POOLS]}
    for kind, direction in itertools.product(kinds, ("forward", "backward")):
        for shape in kinds[kind]:
            parts = cuts.loops(f"{kind} {direction}", shape, 64)
            assert all(loop.tasks > 0 for loop in parts)
            assert sum(loop.ns for loop in parts) > 0
