"""npconv beside PyTorch: python benchmarks/compare_torch.py [--threads 1 2] [--rounds 5] [--only PART] [--dtype ...]

Each library runs in a process of its own, because two OpenMP runtimes in one process spin on the same cores; both are
bound to the same cores and take turns, row by row and round by round, so that a slower minute of the machine meets
both. What counts is the median over the rounds. PyTorch is not needed otherwise: pip install torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from peak import fma_peak
from shapes import CONVS, POOLS, Conv, Pool

Task = Callable[[], Any]


def tasks_of_npconv(threads: int, dtype: str) -> dict[str, Task]:
    import npconv
    from npconv import models, optimizers

    npconv.set_num_threads(threads)

    def conv(shape: Conv) -> tuple[Task, Task]:
        x, weight, bias, dy = shape.arrays(dtype)
        return (
            lambda: npconv.conv2d(x, weight, bias, shape.stride, shape.padding),
            lambda: npconv.conv2d_backward(dy, x, weight, shape.stride, shape.padding),
        )

    def pool(shape: Pool) -> tuple[Task, Task]:
        x, options = shape.array(dtype), (shape.kernel, shape.stride, shape.padding)
        y, indices = npconv.max_pool2d(x, *options, return_indices=True)
        return lambda: npconv.max_pool2d(x, *options), lambda: npconv.max_pool2d_backward(y, indices, x.shape)

    def step() -> Task:
        net, optimizer = models.SimpleConvNet(rng=1, dtype=dtype), optimizers.Adam()
        x, t = batch(dtype)
        return lambda: optimizer.update(net.params, net.gradient(x, t))

    return collect(conv, pool, step)


def tasks_of_torch(threads: int, dtype: str) -> dict[str, Task]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)

    def backward(y: Any, inputs: list[Any], dy: Any) -> Task:
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    def forward(function: Callable[..., Any], *arguments: Any, **options: Any) -> Task:
        def run() -> None:
            with torch.no_grad():
                function(*arguments, **options)

        return run

    def conv(shape: Conv) -> tuple[Task, Task]:
        x, weight, bias, dy = (torch.from_numpy(a) for a in shape.arrays(dtype))
        inputs = [a.requires_grad_() for a in (x, weight, bias)]
        arguments = x, weight, bias, shape.stride, shape.padding
        return forward(F.conv2d, *arguments), backward(F.conv2d(*arguments), inputs, dy)

    def pool(shape: Pool) -> tuple[Task, Task]:
        x = torch.from_numpy(shape.array(dtype)).requires_grad_()
        arguments = x, shape.kernel, shape.stride, shape.padding
        y = F.max_pool2d(*arguments)
        return forward(F.max_pool2d, *arguments), backward(y, [x], torch.ones_like(y))

    def step() -> Task:
        layers = nn.Conv2d(1, 30, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        net = nn.Sequential(*layers, nn.Linear(4320, 100), nn.ReLU(), nn.Linear(100, 10)).to(getattr(torch, dtype))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
        loss = nn.CrossEntropyLoss()
        x, t = (torch.from_numpy(a) for a in batch(dtype))

        def run() -> None:
            optimizer.zero_grad()
            loss(net(x), t).backward()
            optimizer.step()

        return run

    return collect(conv, pool, step)


def batch(dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((100, 1, 28, 28)).astype(dtype), rng.integers(0, 10, 100)


def collect(conv: Any, pool: Any, step: Any) -> dict[str, Task]:
    """Return every task by name; arrays are made when a task is first asked for."""
    makers: dict[str, Callable[[], Task]] = {}
    for shape in CONVS:
        makers[f"forward: {shape.name}"] = lambda s=shape: conv(s)[0]  # type: ignore[misc]
        makers[f"backward: {shape.name}"] = lambda s=shape: conv(s)[1]  # type: ignore[misc]
    for pooling in POOLS:
        makers[f"forward: {pooling.name}"] = lambda s=pooling: pool(s)[0]  # type: ignore[misc]
        makers[f"backward: {pooling.name}"] = lambda s=pooling: pool(s)[1]  # type: ignore[misc]
    makers["training step: SimpleConvNet"] = step
    return Lazy(makers)


class Lazy(dict[str, Task]):
    """Makes a task when it is first asked for, and forgets the one before: the arrays are large."""

    def __init__(self, makers: dict[str, Callable[[], Task]]) -> None:
        super().__init__()
        self.makers = makers

    def __missing__(self, name: str) -> Task:
        self.clear()
        self[name] = self.makers[name]()
        return self[name]


def serve(library: str, threads: int, dtype: str) -> None:
    """Be a worker: read the name of a task a line, answer with the median of its times in seconds."""
    tasks = {"npconv": tasks_of_npconv, "torch": tasks_of_torch}[library](threads, dtype)
    print("ready", flush=True)
    for line in sys.stdin:
        task = tasks[line.strip()]
        task()
        times: list[float] = []
        end = time.perf_counter() + 0.3
        while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
            start = time.perf_counter()
            task()
            times.append(time.perf_counter() - start)
        print(json.dumps(statistics.median(times)), flush=True)


def compare(threads: int, rounds: int, only: str, dtype: str) -> None:
    cores = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []

    def bind() -> None:
        if cores:
            os.sched_setaffinity(0, cores)

    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    workers = {}
    for library in ("npconv", "torch"):
        command = [sys.executable, __file__, "--serve", library, "--threads", str(threads), "--dtype", dtype]
        workers[library] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=bind
        )

    def ask(worker: subprocess.Popen[str], name: str) -> float:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    for worker in workers.values():
        assert worker.stdout is not None
        worker.stdout.readline()
    peak = fma_peak(threads)
    flops = {f"forward: {s.name}": s.flops for s in CONVS} | {f"backward: {s.name}": 2 * s.flops for s in CONVS}
    print(f"\n{threads} threads, {dtype}, FMA peak (float32) {peak / 1e9:.0f} GFLOP/s\n")
    print("| what | npconv ms | PyTorch ms | PyTorch / npconv | npconv GFLOP/s | % of FMA peak |")
    print("|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {}
    for name in collect(None, None, None).makers:  # type: ignore[attr-defined]
        if only not in name:
            continue
        times: dict[str, list[float]] = {library: [] for library in workers}
        for _ in range(rounds):
            for library, worker in workers.items():
                times[library].append(ask(worker, name))
        ours, theirs = (statistics.median(times[library]) for library in workers)
        rate = flops.get(name, float("nan")) / ours
        ratios.setdefault(name.split(":")[0], []).append(theirs / ours)
        print(
            f"| {name} | {ours * 1e3:.3f} | {theirs * 1e3:.3f} | {theirs / ours:.2f} "
            f"| {rate / 1e9:.0f} | {100 * rate / peak:.0f} |",
            flush=True,
        )
    for kind, values in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, values)))
        print(f"\n{kind}: geometric mean {mean:.2f}, least {min(values):.2f}")
    for worker in workers.values():
        worker.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only rows whose name contains this")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--serve", choices=["npconv", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads[0], options.dtype)
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is not installed here: pip install torch")
    for threads in options.threads:
        compare(threads, options.rounds, options.only, options.dtype)


if __name__ == "__main__":
    main()
