"""The scripts of examples/ (train_mnist.py has its own tests): each ends well, says what it reached, and leaves it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_runs import EXAMPLES, needs, needs_data, run

needs("matplotlib", "tqdm", "tensorboardX")

PNG = b"\x89PNG"


def check(script: str, folder: Path, files: list[str], *arguments: Any) -> str:
    """Run a script to its end, check that it left these files and nothing half written, and return what it printed."""
    result = run(script, "--quick", "--output", folder, *arguments)
    assert result.returncode == 0, result.stderr
    left = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    assert left == set(files)
    for name in files:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(PNG)
        if name.endswith(".npz"):
            with np.load(folder / name, allow_pickle=False) as weights:
                assert all(np.isfinite(weights[key]).all() for key in weights.files)
    return result.stdout


def number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1].replace(",", ""))


@needs_data("mnist")
def test_mlp_vs_cnn(tmp_path: Path) -> None:
    files = ["mlp.npz", "net2.npz", "history.json", "curves.png", "differences.png"]
    text = check("mnist_mlp_vs_cnn.py", tmp_path, files)
    assert "epoch 1, batch 300 of 313: loss" in text
    assert number(text, r"Net2: test accuracy ([0-9.]+)") > 0.93
    assert number(text, r"MLP: test accuracy ([0-9.]+)") > 0.8
    networks = json.loads((tmp_path / "history.json").read_text())["networks"]
    assert {name: len(history["val_loss"]) for name, history in networks.items()} == {"MLP": 3, "Net2": 3}


@needs_data("fashion-mnist")
def test_fashion_mnist(tmp_path: Path) -> None:
    files = ["dense.npz", "cnn.npz", "history.json", "curves.png", "activations.png"]
    text = check("fashion_mnist.py", tmp_path, files)
    assert re.findall(r"Total params: ([0-9,]+)", text) == ["101,770", "243,786"]
    assert number(text, r"CNN: training accuracy ([0-9.]+)") > 0.65
    assert number(text, r"CNN: .*test accuracy ([0-9.]+)") > 0.7


@needs_data("cifar10")
def test_cifar10(tmp_path: Path) -> None:
    files = ["weights.npz", "history.json", "results.png", "predictions.png"]
    text = check("cifar10.py", tmp_path, files)
    assert "Total params: 62,006" in text
    assert "epoch 1, batch  2,000: loss" in text
    assert re.search(r"start: .*\n", text)
    assert re.search(r"end:   .*\n", text)
    assert len(re.findall(r"accuracy of (\w+):", text)) == 10
    assert number(text, r"\ntest accuracy ([0-9.]+)") > 0.25


@needs_data("mnist")
def test_lenet(tmp_path: Path) -> None:
    files = ["published.npz", "modern.npz", "history.json", "filters.png", "activations.png", "curves.png"]
    text = check("lenet.py", tmp_path, files)
    assert number(text, r"published: final test accuracy ([0-9.]+)") > 0.8
    assert number(text, r"modern: final test accuracy ([0-9.]+)") > 0.8
    with np.load(tmp_path / "published.npz", allow_pickle=False) as weights:
        connected = np.any(weights["C3.weight"] != 0, axis=(2, 3))
    assert connected.sum() == 60  # of 96, as published
    assert sorted(connected.sum(axis=1)) == [3] * 6 + [4] * 9 + [6]


def test_layers_of_lenet_have_the_gradients_of_their_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import lenet

    rng = np.random.default_rng(0)
    for layer in (lenet.ScaledTanh(), lenet.Subsampling(3)):
        x = rng.standard_normal((2, 3, 4, 6))
        for name in layer.parameter_names:
            setattr(layer, name, rng.standard_normal(getattr(layer, name).shape))
        dy = rng.standard_normal(layer.forward(x).shape)
        dx = layer.backward(dy)
        arrays = {"x": (x, dx)} | {name: (array, layer.grads[name]) for name, array in layer.parameters().items()}
        for array, gradient in arrays.values():
            step = rng.standard_normal(array.shape)
            values = []
            for sign in (1, -1):
                array += sign * 1e-6 * step
                values.append((layer.forward(x) * dy).sum())
                array -= sign * 1e-6 * step
            assert (values[0] - values[1]) / 2e-6 == pytest.approx((gradient * step).sum(), rel=1e-6)


@needs_data("cifar10")
def test_alexnet(tmp_path: Path) -> None:
    files = ["weights.npz", "history.json", "curves.png", "classes.png", "filters.png"]
    text = check("alexnet.py", tmp_path, files, "--epochs", 1)
    assert "60,965,224 parameters, as published: True" in text
    for shape in ("96, 55, 55", "96, 27, 27", "256, 27, 27", "256, 13, 13", "384, 13, 13", "256, 6, 6"):
        assert f"(None, {shape})" in text
    assert number(text, r"\ntest accuracy ([0-9.]+)") > 0.1
    assert number(text, r"loss ([0-9.]+) \(guessing") == pytest.approx(np.log(1000), abs=0.5)


@needs_data("mnist")
def test_dropout(tmp_path: Path) -> None:
    files = ["without_dropout.npz", "with_dropout.npz", "history.json", "curves.png"]
    text = check("dropout.py", tmp_path, files)
    assert number(text, r"without dropout: training accuracy ([0-9.]+)") > 0.9
    results = json.loads((tmp_path / "history.json").read_text())["results"]
    assert len(results["with dropout"]["test_accuracy"]) == 12
    assert results["with dropout"]["test_loss"][-1] < 2.5


@needs_data("cifar10")
def test_feature_maps(tmp_path: Path) -> None:
    text = check("feature_maps.py", tmp_path, ["results.json", "matrix.png", "feature_maps.png", "batch.png"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ceil_mode"] == [[2, 3], [5, 1]]
    assert results["floor_mode"] == [[2]]
    assert results["indices"] == [[1, 3], [15, 18]]
    unpooled = np.zeros((5, 5))
    unpooled[0, 1], unpooled[0, 3], unpooled[3, 0], unpooled[3, 3] = 2, 3, 5, 1
    np.testing.assert_array_equal(results["unpooled"], unpooled)
    assert "[[2 3]\n [5 1]]" in text
    assert results["shapes"] == {"input": [8, 3, 32, 32], "convolution": [8, 6, 30, 30], "pooling": [8, 6, 10, 10]}
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert tags_of(events) == {"input", "convolution", "pooling"}


def tags_of(events: Path) -> set[str]:
    """Return the tags of the pictures in a file of events: records of length, its checksum, data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, tags = events.read_bytes(), set()
    while data:
        length = int.from_bytes(data[:8], "little")
        for value in Event.FromString(data[12 : 12 + length]).summary.value:
            assert value.image.encoded_image_string.startswith(PNG)
            tags.add(value.tag.split("/")[0])
        data = data[16 + length :]
    return tags


def test_filters_by_hand(tmp_path: Path) -> None:
    pictures = ["one_window.png", "denoise.png", "edges.png", "padding_and_stride.png"]
    check("filters_by_hand.py", tmp_path, [*pictures, "results.json"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["largest_difference_to_loops"] < 1e-5
    noise = results["noise_left"]
    assert noise["5x5 Gaussian"] < noise["3x3 mean"] < 0.6 * noise["noisy"]


SCRIPTS = ["mnist_mlp_vs_cnn.py", "fashion_mnist.py", "cifar10.py", "lenet.py", "alexnet.py", "dropout.py",
           "feature_maps.py"]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_data_set_is_named(script: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run(script, "--quick", "--data", empty, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert str(empty) in result.stderr
