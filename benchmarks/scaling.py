"""How npconv scales: python benchmarks/scaling.py [--only TEXT] [--cores 64] [--sockets 4] ...

Measures every operator on 1 and on 2 threads in turns, and prints, as a Markdown table, the speed-up beside what a
model predicts for it, and what the model predicts for a larger machine.  docs/scaling.md explains the model:

    T(p) = overhead(p) + max(compute(p), bytes / B(p))    where compute(p) = W / (r1*p) * imbalance(p)
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import NamedTuple

import numpy as np
from cuts import ELEMENT_NS, THREAD_NS, Loop, ceil_div, loops
from peak import copy_peak, fma_peak
from peers import npconv as ours
from peers.rows import Row, Task, all_rows
from peers.worker import measure
from shapes import Conv, Pool

import npconv

TINY = {"conv": Conv("one pixel", 1, 1, 1, 1, 1), "pool": Pool("one pixel", 1, 1, 1, 1, 1)}


class Work(NamedTuple):
    """One call: seconds of the serial part and of the parallel loops on one thread, and the bytes that it must move."""

    serial: float
    compute: float
    bytes: float


class Machine(NamedTuple):
    """Threads, their memory's bytes per second, and the seconds for which two threads enter and leave a loop."""

    threads: int
    bandwidth: float
    entry: float


class Prediction(NamedTuple):
    seconds: float
    limit: str


def imbalance(tasks: int, threads: int) -> float:
    """Return how many times longer equal tasks take than if they could be cut to fit the threads."""
    return ceil_div(tasks, threads) * threads / tasks


def threads_used(loop: Loop, threads: int) -> int:
    """Return how many threads parallel_for wakes."""
    return max(min(threads, loop.tasks, int(loop.ns / THREAD_NS)), 1)


def bandwidth(sockets: int, per_socket: float, link: float) -> float:
    """Return the bytes per second that all sockets together get from the memory of one, where the arrays lie.

    The threads of the other sockets move their part, (sockets - 1) / sockets, through the links of that one.
    """
    return per_socket if sockets == 1 else min(per_socket, link * sockets / (sockets - 1))


def predict(work: Work, parts: list[Loop], machine: Machine) -> Prediction:
    """Return T(p), and what makes it longer than an even share of the work."""
    ideal, total = work.compute / machine.threads, sum(loop.ns for loop in parts)
    overhead, compute = work.serial, 0.0
    for loop in parts:
        used = threads_used(loop, machine.threads)
        overhead += machine.entry * math.log2(used)
        compute += work.compute * loop.ns / total / used * imbalance(loop.tasks, used)
    memory = work.bytes / machine.bandwidth
    losses = {"overhead": overhead, "imbalance": compute - ideal}
    if memory > compute:  # never where the bandwidth could not be measured and is nan
        losses = {"overhead": overhead, "memory": memory - ideal}
    seconds = overhead + (memory if memory > compute else compute)
    limit = max(losses, key=lambda name: losses[name])
    return Prediction(seconds, limit if losses[limit] > 0.1 * seconds else "compute")


def in_turns(task: Task, rounds: int, seconds: float) -> tuple[float, float]:
    """Return the median times of `task` on one thread and on two."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, of in times.items():
            with npconv.threads(threads):
                of.append(measure(task, seconds))
    return statistics.median(times[1]), statistics.median(times[2])


def entry_time(rounds: int, seconds: float) -> float:
    """Return what a parallel loop of two threads costs: the least work that parallel_for shares, a ReLU."""
    x = np.ones(2 * int(THREAD_NS / ELEMENT_NS), np.float32)
    serial, _ = in_turns(lambda: npconv.relu(x[:1]), rounds, seconds)
    one, two = in_turns(lambda: npconv.relu(x), rounds, seconds)
    return max(two - serial - (one - serial) / 2, 0.0)


def report(rows: list[Row], options: argparse.Namespace) -> None:
    rounds, seconds = options.rounds, options.seconds
    makers = ours.tasks(1, "float32")
    fma, copy = [fma_peak(p) for p in (1, 2)], [copy_peak(p) for p in (1, 2)]
    entry = entry_time(rounds, seconds)
    serial = {}
    for kind in {row.kind: None for row in rows}:
        serial[kind], _ = in_turns(makers[kind](TINY[kind[:4]])[""], rounds, seconds)
    per_socket, link = options.bandwidth_per_socket * 1e9, options.link_bandwidth * 1e9
    counts = sorted({1, options.sockets})
    large = [Machine(options.cores, bandwidth(sockets, per_socket, link), entry) for sockets in counts]

    def both(values: list[float], digits: int) -> str:
        return f"{values[0] / 1e9:.{digits}f} and {values[1] / 1e9:.{digits}f} (x {values[1] / values[0]:.2f})"

    print(f"1 and 2 threads: multiply-adds {both(fma, 0)} GFLOP/s, copying {both(copy, 1)} GB/s.")
    calls = ", ".join(f"{kind} {time * 1e6:.1f}" for kind, time in serial.items())
    print(f"Microseconds: a parallel loop of 2 threads {entry * 1e6:.1f}; the serial part of a call: {calls}.")
    print(f"Assumed: {per_socket / 1e9:g} GB/s per socket, {link / 1e9:g} GB/s through the links of one.\n")
    titles = [f"{options.cores} cores, {n} socket{'s' * (n > 1)}" for n in counts]
    print(f"| what | ms, 1 / 2 threads | speed-up, measured | predicted | {' | '.join(titles)} |")
    print("|---" * (4 + len(counts)) + "|")
    measured, predicted = [], []
    for row in rows:
        one, two = in_turns(makers[row.kind](row.subject)[""], rounds, seconds)
        work = Work(serial[row.kind], max(one - serial[row.kind], 0.0), row.bytes)
        machines = [Machine(1, copy[0], entry), Machine(2, copy[1], entry), *large]
        times = [predict(work, loops(row.kind, row.subject, machine.threads), machine) for machine in machines]
        cells = [f"{times[0].seconds / time.seconds:.2f}, {time.limit}" for time in times[1:2]]
        cells += [f"{times[0].seconds / time.seconds:.0f}, {time.limit}" for time in times[2:]]
        print(f"| {row.name} | {one * 1e3:.3f} / {two * 1e3:.3f} | {one / two:.2f} | {' | '.join(cells)} |", flush=True)
        measured.append(one / two)
        predicted.append(times[0].seconds / times[1].seconds)
    means = statistics.geometric_mean(measured), statistics.geometric_mean(predicted)
    print(f"\nGeometric means on 2 threads: measured {means[0]:.2f}, predicted {means[1]:.2f}. ", end="")
    print(f"At least 1.85: {sum(ratio >= 1.85 for ratio in measured)} of {len(rows)} rows.")


def main() -> None:
    parser = argparse.ArgumentParser(description="How npconv scales, and what limits it: a Markdown table.")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name contains TEXT")
    parser.add_argument("--rounds", type=int, default=3, help="of 1 and 2 threads in turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.1, help="per measurement (default: 0.1)")
    parser.add_argument("--cores", type=int, default=64, help="of the machine to predict for (default: 64)")
    parser.add_argument("--sockets", type=int, default=4, help="that its cores may be spread over (default: 4)")
    parser.add_argument("--bandwidth-per-socket", type=float, default=200, help="GB/s of its memory (default: 200)")
    parser.add_argument("--link-bandwidth", type=float, default=100, help="GB/s of a socket's links (default: 100)")
    options = parser.parse_args()
    if min(options.cores, options.sockets, options.rounds) < 1 or options.cores < options.sockets:
        parser.error("--sockets and --rounds must be at least 1, --cores at least --sockets")
    if min(options.bandwidth_per_socket, options.link_bandwidth) <= 0:
        parser.error("bandwidths must be above 0")
    if not npconv.build_info()["openmp"]:
        sys.exit("this build of npconv has no OpenMP, so there is nothing to compare")
    # The main rows; a group with another name than its kind holds further shapes or dtypes.
    rows = [row for row in all_rows() if row.group == row.kind and isinstance(row.subject, (Conv, Pool))]
    rows = [row for row in rows if options.only in row.name]
    if not rows:
        parser.error(f"--only: no row's name contains {options.only!r}")
    report(rows, options)


if __name__ == "__main__":
    main()
