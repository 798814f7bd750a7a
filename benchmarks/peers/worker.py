"""Serves one library to compare_peers.py: `python -m peers.worker LIBRARY THREADS`, a line of JSON in, a line out.

The first line out gives the versions.  A request names a row and for how many seconds each variant is to be timed; the
answer holds the median time of every variant, and the root mean squares of what was computed, by which a library that
computed something else is noticed.  A library that cannot do a row answers with no times.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from peers.environments import PEERS, distributions
from peers.rows import Row, Task, Variants, all_rows


def measure(task: Task, seconds: float) -> float:
    """Return the median time of `task` in seconds, after two calls that compile, allocate and warm up."""
    task()
    task()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fingerprint(results: Any, to_numpy: Callable[[Any], Any]) -> list[float]:
    """Return the root mean square of each result: the same for any layout."""
    arrays = [np.asarray(to_numpy(r)) for r in (results if isinstance(results, (list, tuple)) else [results])]
    return [float(np.sqrt(np.mean(np.square(a.astype(np.float64))))) for a in arrays]


def version(package: str) -> str:
    """Return the version of a package; it need not be installed, where Python finds a source tree of it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(package).__version__)


def serve(name: str, threads: int, answer: Callable[[Any], None]) -> None:
    library = importlib.import_module(f"peers.{name}")
    makers = {dtype: library.tasks(threads, dtype) for dtype in ("float32", "float64")}
    rows: dict[str, Row] = {row.name: row for dtype in makers for row in all_rows(dtype)}
    to_numpy = getattr(library, "to_numpy", np.asarray)
    answer({"versions": {package: version(package) for package in distributions(name)}})
    made: tuple[str, Variants] = ("", {})
    for line in sys.stdin:
        request = json.loads(line)
        row = rows[request["row"]]
        try:
            if made[0] != row.name:
                made = ("", {})  # the arrays of the row before are large: they go first
                maker = makers[row.dtype].get(row.kind)
                made = (row.name, maker(row.subject) if maker else {})
            times = {variant: measure(task, request["seconds"]) for variant, task in made[1].items()}
            prints = {}
            if row.kind != "training step":  # there every call gives something else
                prints = {variant: fingerprint(task(), to_numpy) for variant, task in made[1].items()}
        except Exception as error:  # whatever a library raises is said in the report, and the others go on
            answer({"error": f"{type(error).__name__}: {error}"[:300]})
        else:
            answer({"times": times, "fingerprints": prints})


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    assert name in PEERS
    # Libraries print what they like: what they believe to be the standard output becomes the standard error.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: Any) -> None:
        print(json.dumps(message), file=pipe, flush=True)

    serve(name, threads, answer)


if __name__ == "__main__":
    main()
