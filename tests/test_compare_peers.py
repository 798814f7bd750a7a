"""benchmarks/compare_peers.py, with npconv alone or with libraries that are made up: what it measures and writes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import npconv

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compare_peers.py"

if not SCRIPT.exists():
    pytest.skip("the benchmarks are not here: they come with the source tree", allow_module_level=True)


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


ROWS = ["conv forward: cifar conv2", "operator backward: batch norm", "training step: CIFAR Net"]


@pytest.mark.parametrize("row", ROWS)
def test_one_row_is_measured_and_reported(tmp_path, row):
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


def test_another_result_is_noticed_and_the_fastest_variant_counts(load):
    report = load("peers.report")
    prints = {"npconv": {"": [1.0, 2.0]}, "torch": {"NCHW": [1.0, 2.0001]}, "jax": {"NCHW": [1.0, 2.0], "NHWC": [1.0]}}
    assert list(report.deviations(prints)) == ["jax"]
    row = {"times": {"npconv": {"": [3.0, 2.0, 9.0]}, "torch": {"NCHW": [8.0], "channels_last": [6.0]}, "jax": {}}}
    assert report.medians(row) == {"npconv": 3.0, "torch": 6.0}
    assert report.best_ratio(row) == ("torch", 2.0)


class Library:
    """Answers as a worker does, but at once, and always the same."""

    def __init__(self, **times: float) -> None:
        self.times = times
        self.asked = 0

    def ask(self, row: object, seconds: float) -> dict[str, object]:
        self.asked += 1
        return {"times": self.times, "fingerprints": {variant: [1.0] for variant in self.times}}


def test_a_library_without_an_operator_is_left_out_of_its_row_alone(load, monkeypatch):
    compare_peers, rows, report = load("compare_peers"), load("peers.rows"), load("peers.report")
    monkeypatch.setattr(compare_peers, "PAUSE", 0)
    row = next(row for row in rows.all_rows() if row.name == "operator forward: avg pool 2x2, 112x112")
    jax = Library()
    workers = {"npconv": Library(**{"": 0.001}), "torch": Library(NCHW=0.004, channels_last=0.003), "jax": jax}
    measured = compare_peers.measure_row(workers, row, rounds=3, seconds=0)
    assert measured["times"] == {
        "npconv": {"": [0.001] * 3},
        "torch": {"NCHW": [0.004] * 3, "channels_last": [0.003] * 3},
    }
    assert measured["errors"] == {}
    assert jax.asked == 1
    assert "jax" in workers
    # Its rate is one of bytes: it reads 4 times as many numbers as it writes.
    assert (measured["flops"], measured["bytes"]) == (0, 4 * 8 * 64 * (112**2 + 56**2))
    rate, share = report.rate(measured, {"fma_peak": 1e11, "copy_peak": 1e11})
    assert rate == pytest.approx(measured["bytes"] / 0.001)
    assert share == pytest.approx(rate / 1e11)
    lines = "\n".join(report._tables({"threads": 1, "fma_peak": 1e11, "copy_peak": 1e11, "rows": [measured]}))
    assert f"| {row.name} | 1.000 | 3.000 | PyTorch | 3.00 | PyTorch | 4.00 | 32 | 32 |" in lines
    assert f"| operator forward, average pooling | 1 | 3.00 | 3.00 ({row.name}) | 4.00 |" in lines


def test_a_worker_says_what_its_library_does_not_do(load, monkeypatch):
    worker, rows = load("peers.worker"), load("peers.rows")

    def broken(subject: object) -> None:
        raise ValueError("not in this layout")

    makers = {"operator forward": lambda subject: {"": lambda: np.full(subject.y, 2.0)}, "operator backward": broken}
    monkeypatch.setitem(sys.modules, "peers.numpy_book", SimpleNamespace(tasks=lambda threads, dtype: makers))
    names = ["operator forward: adaptive avg pool 7 to 1", "operator backward: batch norm", "inference: Net2"]
    assert set(names) <= {row.name for row in rows.all_rows()}
    asked = [json.dumps({"row": name, "seconds": 0}) for name in names]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(asked)))
    answers = []
    worker.serve("numpy_book", 1, answers.append)
    versions, done, failed, lacking = answers
    assert versions == {"versions": {"numpy": np.__version__}}
    assert done["fingerprints"] == {"": [2.0]}
    assert done["times"][""] >= 0
    assert failed == {"error": "ValueError: not in this layout"}
    assert lacking == {"times": {}, "fingerprints": {}}


def test_version_of_a_source_tree(load, monkeypatch):
    def not_installed(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert load("peers.worker").version("npconv") == npconv.__version__


def test_operators_are_as_they_are_described(load):
    shapes, calls = load("shapes"), load("peers.npconv")
    for operator in (operator for group in shapes.OPERATORS.values() for operator in group):
        inputs, dy = operator.arrays()
        assert inputs[0].shape == operator.x, operator.name
        assert operator.bytes(4, backward=False) == sum(array.nbytes for array in [*inputs, dy]), operator.name
        assert calls.forward(npconv.functional, operator, "float32")().shape == operator.y, operator.name
        gradients = calls.backward(npconv.functional, operator, "float32")()
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        differentiable = [array.shape for array in inputs if array.dtype.kind == "f"]
        assert [gradient.shape for gradient in gradients] == differentiable, operator.name


def test_work_of_operators(load):
    shapes, rows = load("shapes"), load("peers.rows").all_rows()
    of = {operator.name: operator for group in shapes.OPERATORS.values() for operator in group}
    assert of["conv 3x3 p1, depthwise"].flops == 2 * 8 * 128 * 28**2 * 9
    assert of["conv 3x3 p1, 32 groups"].flops == 2 * 8 * 64 * 56**2 * 2 * 9
    assert of["transposed conv 4x4 s2 p1"].flops == 2 * 8 * 128 * 28**2 * 64 * 16
    assert of["transposed conv 4x4 s2 p1, depthwise"].flops == 2 * 8 * 64 * 28**2 * 16
    assert of["batch norm"].flops == 0
    # The gradients of a sum need dy alone, those of a convolution x and the weight as well.
    image = 4 * 8 * 64 * 56**2
    assert of["fold 3x3 p1"].bytes(4, backward=True) == (1 + 9) * image
    assert of["batch norm"].bytes(4, backward=True) == 3 * image + 4 * 4 * 64
    backward = next(row for row in rows if row.name == "operator backward: conv 3x3 p1, depthwise")
    assert backward.flops == 4 * 8 * 128 * 28**2 * 9
    assert backward.bytes == 4 * (3 * 8 * 128 * 28**2 + 2 * 128 * (9 + 1))
    assert len({row.name for row in rows}) == len(rows)


PARAMETERS = {"Net2": 8_490, "Keras CNN": 243_786, "CIFAR Net": 62_006}  # as their tutorials have them


@pytest.mark.parametrize("network", PARAMETERS)
def test_networks_are_those_of_the_tutorials(load, network):
    """Their numbers, and a few steps of npconv's beside the book's way, in float64."""
    networks, ours, book = load("peers.networks"), load("peers.npconv"), load("peers.numpy_book")
    net, layers = ours.sequential(network, "float64"), book.build(network, "float64")
    params = list(net.parameters().values())
    assert sum(param.size for param in params) == PARAMETERS[network]
    x, t = networks.batch(network, "float64")
    assert x.shape == (networks.NETWORKS[network].batch, *networks.NETWORKS[network].image)
    assert t.shape == (len(x),)
    before = [param.copy() for param in params]
    steps = ours.sequential_step(network, net, "float64"), book.training_step(network, layers, "float64")
    for step in steps:
        for _ in range(3):
            step()
    expected = [param for layer in layers for param in getattr(layer, "params", [])]
    for param, start, theirs in zip(params, before, expected, strict=True):
        assert not np.array_equal(param, start)
        np.testing.assert_allclose(param, theirs.T if theirs.ndim == 2 else theirs, rtol=1e-9, atol=1e-12)


def test_work_of_networks(load):
    flops = load("peers.networks").flops
    first, rest = 10 * 25 * 24**2, 20 * 10 * 25 * 8**2 + 320 * 10
    assert flops("Net2", training=False) == 64 * 2 * (first + rest)
    assert flops("Net2", training=True) == 64 * 2 * (2 * first + 3 * rest)  # the images need no gradient
    first, rest = 6 * 3 * 25 * 28**2, 16 * 6 * 25 * 10**2 + 400 * 120 + 120 * 84 + 84 * 10
    assert flops("CIFAR Net", training=False) == 4 * 2 * (first + rest)
