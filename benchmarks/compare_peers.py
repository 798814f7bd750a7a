"""npconv beside other libraries on the CPU: python benchmarks/compare_peers.py [--peers torch jax] [--only TEXT] ...

Every library runs in a process and a virtual environment of its own (made in .venv-peers on first use: a few GB to
download, with all of them), because two runtimes of threads in one process spin on the same cores.  All are bound to
the same cores and take turns, row by row and round by round, so that a slower minute of the machine meets them all;
what counts is the median over the rounds.  A library that cannot be installed or imported is left out, and the report
says why.

results.json is written after every row, so that an interrupted run leaves what it has measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from peers import environments, report
from peers.environments import PEERS, Unavailable
from peers.rows import Row, all_rows

BENCHMARKS = Path(__file__).resolve().parent

# Threads go on spinning after their work is done, 200 ms at most: only then it is the next library's turn.
PAUSE = 0.25


class Worker:
    """A process that measures with one library; see peers/worker.py."""

    def __init__(self, name: str, python: Path, threads: int, cores: list[int], log: Path) -> None:
        self.log = log
        self.stderr: TextIO = log.open("w")

        def bind() -> None:
            if cores:
                os.sched_setaffinity(0, cores)

        self.process = subprocess.Popen(
            [str(python), "-m", "peers.worker", name, str(threads)],
            cwd=BENCHMARKS,
            env=environments.variables(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            preexec_fn=bind,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
        self.versions: dict[str, str] = self._read()["versions"]

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise Unavailable(f"stopped with status {code}: {environments.last_line(self.log.read_text())}")
        return json.loads(line)

    def ask(self, row: Row, seconds: float) -> Any:
        assert self.process.stdin is not None
        try:
            print(json.dumps({"row": row.name, "seconds": seconds}), file=self.process.stdin, flush=True)
        except OSError:
            raise Unavailable("has stopped") from None
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.stderr.close()


def measure_row(workers: dict[str, Worker], row: Row, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the times of every library and variant, one per round; a library that fails at a row is asked no more."""
    times: dict[str, dict[str, list[float]]] = {}
    prints: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, str] = {}
    asked = list(workers)
    for _ in range(rounds):
        for name in list(asked):
            try:
                answer = workers[name].ask(row, seconds)
            except Unavailable as error:
                workers.pop(name).close()
                answer = {"error": f"{error}; left out from here on"}
            if not answer.get("times"):
                asked.remove(name)
            if "error" in answer:
                errors[name] = answer["error"]
                times.pop(name, None)
                continue
            for variant, value in answer["times"].items():
                times.setdefault(name, {}).setdefault(variant, []).append(value)
            prints[name] = answer["fingerprints"]
            time.sleep(PAUSE)
    errors |= {name: message for name, message in report.deviations(prints).items() if name not in errors}
    work = {"flops": row.flops, "bytes": row.bytes}
    about = {"name": row.name, "group": row.group, "kind": row.kind, "dtype": row.dtype, **work}
    return {**about, "times": times, "errors": errors}


def peaks(threads: int, cores: list[int]) -> tuple[float | None, float | None]:
    """Return the measured roofs, operations and bytes per second, on the cores that the libraries get."""
    code = f"import json, peak; print(json.dumps([peak.fma_peak({threads}), peak.copy_peak({threads})]))"
    bound = f"import os; os.sched_setaffinity(0, {cores}); " if cores else ""
    done = subprocess.run([sys.executable, "-c", bound + code], cwd=BENCHMARKS, capture_output=True, text=True)
    values = json.loads(done.stdout) if done.returncode == 0 else [float("nan")] * 2
    fma, copy = (value if value == value else None for value in values)
    return fma, copy


def compare(options: argparse.Namespace, pythons: dict[str, Path], results: dict[str, Any]) -> None:
    rows = [row for row in all_rows(options.dtype) if options.only in row.name]
    if not rows:
        sys.exit(f"no row's name contains {options.only!r}; there are:\n" + "\n".join(r.name for r in all_rows()))
    for threads in options.threads:
        cores = results["cores"][:threads]
        fma, copy = peaks(threads, cores)
        run: dict[str, Any] = {"threads": threads, "fma_peak": fma, "copy_peak": copy, "rows": []}
        results["runs"].append(run)
        workers: dict[str, Worker] = {}
        try:
            for name, python in pythons.items():
                try:
                    workers[name] = Worker(name, python, threads, cores, Path(results["output"], f"{name}.log"))
                except Unavailable as error:
                    results["left_out"][name] = str(error)
                else:
                    results["versions"][name] = workers[name].versions
            for row in rows:
                if "npconv" not in workers:
                    sys.exit(f"npconv {results['left_out'].get('npconv', 'has stopped')}")
                run["rows"].append(measure_row(workers, row, options.rounds, options.seconds))
                report.write(results, Path(results["output"]))
                print(f"{threads} threads, {report.line(run['rows'][-1])}", flush=True)
        finally:
            for worker in workers.values():
                worker.close()


def about_machine(cores: list[int]) -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": (cores or allowed) if allowed else [],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    others = [name for name in PEERS if name != "npconv"]
    parser.add_argument("--peers", nargs="*", choices=others, default=others, help="beside npconv; default: all")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--cores", type=int, nargs="+", default=[], help="the first N are used by N threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="per row, library, variant and round")
    parser.add_argument("--only", default="", help="measure only rows whose name contains this")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "peers")
    whose = "take this Python for a library as it is, and install nothing"
    parser.add_argument("--python", metavar="NAME=PATH", action="append", default=[], help=whose)
    options = parser.parse_args()
    if min(*options.threads, options.rounds) < 1:
        parser.error("--threads and --rounds must be positive")
    if options.cores and not hasattr(os, "sched_setaffinity"):
        parser.error("--cores: processes cannot be bound to cores on this system")
    for text in options.python:
        if text.split("=")[0] not in PEERS or not Path(text.partition("=")[2]).is_file():
            parser.error(f"--python: needed is NAME=PATH of a library and an existing Python, got {text!r}")
    return options


def main() -> None:
    options = parse()
    given = {text.split("=")[0]: Path(text.partition("=")[2]).absolute() for text in options.python}
    results = about_machine(options.cores)
    results |= {"rounds": options.rounds, "seconds": options.seconds, "dtype": options.dtype}
    results |= {"output": str(options.output), "versions": {}, "left_out": {}, "runs": []}
    options.output.mkdir(parents=True, exist_ok=True)
    pythons: dict[str, Path] = {}
    try:
        for name in ["npconv", *options.peers]:
            try:
                pythons[name] = given.get(name) or environments.prepare(name)
            except Unavailable as error:
                results["left_out"][name] = str(error)
                print(f"{name} is left out: {error}", file=sys.stderr)
        if "npconv" not in pythons:
            sys.exit("there is nothing to compare without npconv")
        compare(options, pythons, results)
    except KeyboardInterrupt:
        print("interrupted: what is complete has been kept", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if any(run["rows"] for run in results["runs"]):
            report.write(results, options.output)
            report.draw(results, options.output)
            print(f"written: {options.output}/results.md")


if __name__ == "__main__":
    main()
