"""Draws the comparison: bars of speed, layer by layer, and the layers under the machine's roofs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image  # matplotlib brings it

from peers.environments import PEERS
from peers.report import medians, rate

COLOURS = dict(zip(PEERS, ["black", *plt.get_cmap("tab10").colors], strict=False))  # type: ignore[attr-defined]

# Where a bar is cut off, and its number written: one row must not flatten all the others.
HIGHEST = 4.0


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as a small PNG: drawings need few colours."""
    figure.savefig(path, format="png", dpi=dpi)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, format="PNG", optimize=True)


def panel_of(row: dict[str, Any]) -> str:
    """Return the row's group; but the groups of single operators, of two or three rows each, share a panel."""
    title: str = row["kind"] if row["kind"].startswith("operator") else row["group"]
    return title


def bars(results: dict[str, Any], path: Path) -> None:
    """Draw the speed of every library at every row, as a multiple of npconv's: a panel per group and thread count."""
    runs = results["runs"]
    groups = list(dict.fromkeys(panel_of(row) for run in runs for row in run["rows"]))
    figure, panels = plt.subplots(
        len(groups), len(runs), figsize=(11 * len(runs), 4 * len(groups)), squeeze=False, layout="constrained"
    )
    for column, run in enumerate(runs):
        for panel, group in zip(panels[:, column], groups, strict=True):
            rows = [row for row in run["rows"] if panel_of(row) == group and "npconv" in medians(row)]
            times = [medians(row) for row in rows]
            used = [name for name in PEERS if any(name in t for t in times)]
            width = 0.85 / max(len(used), 1)
            for i, name in enumerate(used):
                speed = [t["npconv"] / t[name] if name in t else 0.0 for t in times]
                places = np.arange(len(rows)) + (i - (len(used) - 1) / 2) * width
                panel.bar(places, speed, width, label=PEERS[name].title, color=COLOURS[name])
                for place, value in zip(places, speed, strict=True):
                    if value > HIGHEST:
                        panel.text(place, HIGHEST, f"{value:.1f}", ha="center", va="top", fontsize="small")
            panel.axhline(1, color="grey", linewidth=0.8)
            labels = [row["name"].partition(": ")[2].removesuffix(", float64") for row in rows]
            panel.set_xticks(range(len(rows)), labels, rotation=25, ha="right")
            panel.set_title(f"{group}, {run['threads']} thread{'s' * (run['threads'] > 1)}")
            panel.set_ylabel("speed, npconv = 1")
            panel.set_ylim(0, min(panel.get_ylim()[1] * 1.1, HIGHEST))  # room for the legend
            if used:
                panel.legend(fontsize="small", ncols=len(used))
    save(figure, path, dpi=60)


def roofline(results: dict[str, Any], path: Path) -> None:
    """Draw operations per second against operations per byte that must be moved, under the measured roofs."""
    runs = results["runs"]
    figure, panels = plt.subplots(1, len(runs), figsize=(9 * len(runs), 7), squeeze=False, layout="constrained")
    for panel, run in zip(panels[0], runs, strict=True):
        rows = [row for row in run["rows"] if row["flops"] and row["bytes"] and row["dtype"] == "float32"]
        for kind, marker in (("conv forward", "o"), ("conv backward", "^")):
            for name in PEERS:
                points = [
                    (row["flops"] / row["bytes"], speed[0] / 1e9)
                    for row in rows
                    if row["kind"] == kind and (speed := rate(row, run, name))
                ]
                if points:
                    size, filled = (45, COLOURS[name]) if name == "npconv" else (22, "none")
                    label = f"{PEERS[name].title}, {kind.split()[1]}"
                    options = {"facecolors": filled, "edgecolors": COLOURS[name], "label": label}
                    panel.scatter(*zip(*points, strict=True), size, marker=marker, **options)
        if run["fma_peak"] and run["copy_peak"]:
            intensity = np.geomspace(0.5, 2000, 200)
            roof = np.minimum(run["fma_peak"], run["copy_peak"] * intensity) / 1e9
            panel.plot(intensity, roof, color="grey", label="roofs: copy and FMA peak")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("operations per byte (every array moved once)")
        panel.set_ylabel("GFLOP/s")
        panel.set_title(f"Convolutions, float32, {run['threads']} thread{'s' * (run['threads'] > 1)}")
        panel.grid(alpha=0.3, which="both")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small")
    save(figure, path, dpi=80)
