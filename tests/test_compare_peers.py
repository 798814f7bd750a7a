"""benchmarks/compare_peers.py, with npconv alone: that it measures, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compare_peers.py"

if not SCRIPT.exists():
    pytest.skip("the benchmarks are not here: they come with the source tree", allow_module_level=True)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_one_row_is_measured_and_reported(tmp_path):
    row = "conv forward: cifar conv2"
    size = "--threads", 1, "--rounds", 1, "--seconds", 0.01
    done = run("--peers", "--python", f"npconv={sys.executable}", "--only", row, *size, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    (measured,) = results["runs"][0]["rows"]
    assert measured["name"] == row
    assert measured["errors"] == {}
    assert measured["times"]["npconv"][""][0] > 0
    assert "numpy" in results["versions"]["npconv"]
    assert f"| {row} |" in (tmp_path / "results.md").read_text()
    if importlib.util.find_spec("matplotlib"):
        for picture in ("bars.png", "roofline.png"):
            assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".new-*"))


def test_what_cannot_be_done_is_said(tmp_path):
    unknown = run("--python", f"scipy={sys.executable}")
    assert unknown.returncode == 2
    assert "scipy" in unknown.stderr
    # A Python without the library: it is left out, and the report says so.
    lone = tmp_path / "lone"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", lone], check=True)
    pythons = "--python", f"npconv={sys.executable}", "--python", f"jax={lone / 'bin' / 'python'}"
    few = "--only", "conv forward: cifar conv2", "--threads", 1, "--rounds", 1, "--seconds", 0.01
    done = run("--peers", "jax", *pythons, *few, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "JAX is left out" in (tmp_path / "results.md").read_text()


def test_another_result_is_noticed_and_the_fastest_variant_counts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from peers import report

    prints = {"npconv": {"": [1.0, 2.0]}, "torch": {"NCHW": [1.0, 2.0001]}, "jax": {"NCHW": [1.0, 2.0], "NHWC": [1.0]}}
    assert list(report.deviations(prints)) == ["jax"]
    row = {"times": {"npconv": {"": [3.0, 2.0, 9.0]}, "torch": {"NCHW": [8.0], "channels_last": [6.0]}, "jax": {}}}
    assert report.medians(row) == {"npconv": 3.0, "torch": 6.0}
    assert report.best_ratio(row) == ("torch", 2.0)
