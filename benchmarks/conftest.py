"""Prints, after pytest-benchmark's own tables, what matters: time, rate, share of the peak, times faster than NumPy."""

from __future__ import annotations

from typing import Any

import pytest
from peak import copy_peak, fma_peak

import npconv


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    from rich.console import Console
    from rich.table import Table

    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    threads = npconv.get_num_threads()
    peak, copy = fma_peak(threads), copy_peak(threads)
    # One row per measurement; pytest-benchmark files the two implementations under one group.
    medians: dict[str, dict[str, float]] = {}
    notes: dict[str, dict[str, float]] = {}
    for bench in session.benchmarks:
        if bench.stats.rounds:
            medians.setdefault(bench.group, {})[bench.params["implementation"]] = bench.stats.median
            notes[bench.group] = bench.extra_info
    table = Table(title=f"{threads} threads, FMA peak {peak / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s")
    for heading in ("what", "npconv ms", "NumPy ms", "times faster", "GFLOP/s", "% of FMA peak", "GB/s", "% of copy"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for group, of in medians.items():
        ours, numpy = of.get("npconv", float("nan")), of.get("numpy", float("nan"))
        flops, moved = notes[group].get("flops"), notes[group].get("bytes")
        table.add_row(
            group,
            f"{ours * 1e3:.3f}",
            f"{numpy * 1e3:.2f}",
            f"{numpy / ours:.1f}",
            f"{flops / ours / 1e9:.0f}" if flops else "",
            f"{100 * flops / ours / peak:.0f}" if flops else "",
            f"{moved / ours / 1e9:.1f}" if moved else "",
            f"{100 * moved / ours / copy:.0f}" if moved else "",
        )
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table)
    terminalreporter.write_line("")
    terminalreporter.write(captured.get())
