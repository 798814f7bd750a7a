"""Writes what was measured as tables and pictures; alone, `python -m peers.report results.json` does so again."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peers.environments import PEERS


def deviations(prints: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    """Return the libraries whose results have other root mean squares than npconv's."""
    ours = prints.get("npconv", {}).get("", [])
    found = {}
    for name, variants in prints.items():
        for variant, theirs in variants.items():
            close = len(ours) == len(theirs) and all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-3), ours, theirs))
            if ours and not close:
                found[name] = f"{variant} computed something else: root mean squares {theirs}, npconv's {ours}".strip()
    return found


CONVERTED = ("NHWC", "channels_last")  # variants whose arrays were brought into another layout beforehand


def medians(row: dict[str, Any], converted: bool = True) -> dict[str, float]:
    """Return each library's seconds: the median over the rounds of its fastest variant.

    Without `converted`, only of variants that take and give NCHW arrays, as they lie in NumPy; that is asked of
    operators, networks have a layout of their own.
    """
    times = {
        name: [statistics.median(t) for v, t in variants.items() if converted or v not in CONVERTED]
        for name, variants in row["times"].items()
    }
    return {name: min(values) for name, values in times.items() if values}


def best_ratio(row: dict[str, Any], converted: bool = True) -> tuple[str, float] | None:
    """Return the fastest peer, and how many times npconv's time it takes; None without a peer or without npconv."""
    others = medians(row, converted or row["kind"] in ("training step", "inference"))
    ours = others.pop("npconv", None)
    if ours is None or not others:
        return None
    name = min(others, key=lambda name: others[name])
    return name, others[name] / ours


def rate(row: dict[str, Any], run: dict[str, Any], name: str = "npconv") -> tuple[float, float | None] | None:
    """Return a library's operations (bytes, where nothing is convolved) per second, and their share of the roof.

    The roof of float64 is half that of float32, which is the one that is measured.
    """
    seconds = medians(row).get(name)
    if seconds is None:
        return None
    work, roof = (row["flops"], run["fma_peak"]) if row["flops"] else (row["bytes"], run["copy_peak"])
    if row["flops"] and roof and row["dtype"] == "float64":
        roof /= 2
    return work / seconds, (work / seconds / roof if roof else None)


def line(row: dict[str, Any]) -> str:
    """Return a row in one line, to be read while the others are measured."""
    times = ", ".join(f"{name} {seconds * 1e3:.3f} ms" for name, seconds in medians(row).items())
    return f"{row['name']}: {times}" + "".join(f"; {name}: {text}" for name, text in row["errors"].items())


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def markdown(results: dict[str, Any]) -> str:
    versions = {
        name: " ".join(f"{package} {version}" for package, version in packages.items())
        for name, packages in results["versions"].items()
    }
    text = [
        "# npconv beside other libraries",
        "",
        f"{results['date']}, {results['cpu']}, {results['system']}, Python {results['python']}; medians of "
        f"{results['rounds']} rounds, {results['seconds']} s each.",
        "",
        *(f"- {PEERS[name].title}: {version}" for name, version in versions.items()),
        *(f"- {PEERS[name].title} is left out: it {why}" for name, why in results["left_out"].items()),
    ]
    for run in results["runs"]:
        text += ["", *_tables(run)]
    return "\n".join(text) + "\n"


def _tables(run: dict[str, Any]) -> list[str]:
    used = [name for name in PEERS if any(name in row["times"] for row in run["rows"])]
    others = [name for name in used if name != "npconv"]
    fma = f"{run['fma_peak'] / 1e9:.0f} GFLOP/s" if run["fma_peak"] else "not measured"
    copy = f"{run['copy_peak'] / 1e9:.1f} GB/s" if run["copy_peak"] else "not measured"
    headings = ["what", *(f"{PEERS[name].title} ms" for name in used), "best peer", "best / npconv"]
    headings += ["best on NCHW arrays", "best on NCHW / npconv"]
    text = [
        f"## {run['threads']} thread{'s' * (run['threads'] > 1)}",
        "",
        f"FMA peak {fma} (float32; half of it in float64), copy {copy}. Each library is given in its fastest layout; "
        "the ratios on NCHW arrays leave out what had its arrays converted to another layout beforehand. Rates are "
        "GFLOP/s and their share of the FMA peak; of operators that convolve nothing GB/s and their share of the copy.",
        "",
        *_table_head([*headings, "npconv GFLOP/s or GB/s", "% of FMA peak or copy"]),
    ]
    for row in run["rows"]:
        times, best, speed = medians(row), best_ratio(row), rate(row, run)
        cells = [row["name"], *(f"{times[name] * 1e3:.3f}" if name in times else "" for name in used)]
        for ratio in (best, best_ratio(row, converted=False)):
            cells += [PEERS[ratio[0]].title, f"{ratio[1]:.2f}"] if ratio else ["", ""]
        cells += [f"{speed[0] / 1e9:.0f}" if speed else ""]
        cells += [f"{100 * speed[1]:.0f}" if speed and speed[1] else ""]
        text.append(_cells(cells))
    text += ["", "Times of each library over npconv's, by group (geometric means):", ""]
    headings = ["group", "rows", "best peer", "least", "best on NCHW", "least on NCHW"]
    text += _table_head([*headings, *(PEERS[name].title for name in others)])
    for group in dict.fromkeys(row["group"] for row in run["rows"]):
        rows = [row for row in run["rows"] if row["group"] == group]
        cells = [group, str(len(rows))]
        for converted in (True, False):
            found = [(best[1], row["name"]) for row in rows if (best := best_ratio(row, converted))]
            cells += (
                [f"{geometric_mean(r for r, _ in found):.2f}", "{:.2f} ({})".format(*min(found))] if found else ["", ""]
            )
        for name in others:
            pairs = [medians(row) for row in rows if {name, "npconv"} <= medians(row).keys()]
            cells.append(f"{geometric_mean(p[name] / p['npconv'] for p in pairs):.2f}" if pairs else "")
        text.append(_cells(cells))
    errors = [(row["name"], PEERS[name].title, why) for row in run["rows"] for name, why in row["errors"].items()]
    notes = [f"- {row}, {title}: {why}" for row, title, why in errors]
    return [*text, *(["", "What went wrong:", "", *notes] if notes else [])]


def _cells(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table_head(headings: list[str]) -> list[str]:
    return [_cells(headings), "|" + "---|" * len(headings)]


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".new-{path.name}")
    write(new)
    os.replace(new, path)


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results.json and results.md."""
    _replace(folder / "results.json", lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
    _replace(folder / "results.md", lambda path: path.write_text(markdown(results)))


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw bars.png and roofline.png, where matplotlib is installed."""
    try:
        from peers import pictures
    except ModuleNotFoundError as error:
        print(f"no pictures: {error}", file=sys.stderr)
        return
    _replace(folder / "bars.png", lambda path: pictures.bars(results, path))
    _replace(folder / "roofline.png", lambda path: pictures.roofline(results, path))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    read = json.loads(source.read_text())
    write(read, source.parent)
    draw(read, source.parent)
