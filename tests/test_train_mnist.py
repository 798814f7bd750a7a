"""examples/train_mnist.py: what it leaves behind, and that it can be stopped and resumed at any step."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import npconv
from npconv.models import SimpleConvNet
from npconv.trainer import Trainer

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "train_mnist.py"
PICTURES = ["curves.png", "filters.png", "filters_applied.png", "feature_maps.png", "confusion.png", "mistakes.png"]

if not SCRIPT.exists():
    pytest.skip("the examples are not here: they come with the source tree", allow_module_level=True)
pytest.importorskip("matplotlib")
pytest.importorskip("rich")


def command(*arguments: Any) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


@pytest.fixture
def example(monkeypatch):
    """The example as a module, on one thread (its images are small), drawing nothing."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import plots
    import train_mnist

    monkeypatch.setattr(plots, "draw_all", lambda *arguments: None)
    with npconv.threads(1):
        yield train_mnist


def digits(folder: Path, *arguments: Any) -> list[str]:
    return ["--dataset", "digits", "--output", str(folder), *map(str, arguments)]


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        return dict(file)


def history(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "history.json").read_text())


def assert_same_run(a: Path, b: Path) -> None:
    """Weights are bitwise the same, and so is the history but for the seconds."""
    left, right = weights(a), weights(b)
    assert list(left) == list(right)
    for name in left:
        assert_array_equal(left[name], right[name], err_msg=name)
    epochs = [[{**e, "seconds": 0} for e in history(folder)["epochs"]] for folder in (a, b)]
    assert epochs[0] == epochs[1]


def test_whole_run(tmp_path):
    """In a process of its own, as a reader starts it: exit code, what it says, all files."""
    output = tmp_path / "new" / "folder"
    run = subprocess.run(
        command("--quick", "--seed", 5, "--threads", 1, *digits(output)),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "seed 5, 1 threads" in run.stdout
    final = float(re.search(r"final test accuracy (0\.\d{4}), seed 5, \d", run.stdout).group(1))

    assert sorted(p.name for p in output.iterdir()) == sorted(
        [*PICTURES, "checkpoint.npz", "history.json", "weights.npz"]
    )
    for picture in PICTURES:
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
        assert (output / picture).stat().st_size > 5000, picture
    report = history(output)
    assert [e["epoch"] for e in report["epochs"]] == [1, 2, 3]
    assert round(report["epochs"][-1]["test_accuracy"], 4) == final
    assert report["options"]["seed"] == 5
    assert report["options"]["data"] == "digits"

    conv_param = {"filter_num": 30, "filter_size": 3, "pad": 0, "stride": 1}
    SimpleConvNet((1, 8, 8), conv_param).load_params(output / "weights.npz")  # a user's next step


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child process")
def test_ctrl_c_in_a_process(example, tmp_path):
    """A real Ctrl-C at a moment that nobody chose; what follows is compared with an unbroken run."""
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    arguments = ("--batch-size", 10, "--network", "deep")  # slow enough to be caught in the middle
    with subprocess.Popen(
        command(*digits(stopped, *arguments, "--epochs", 500, "--threads", 1)),
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        said = ""
        while "epoch   1/500" not in said:
            line = process.stdout.readline()
            assert line, f"it ended early: {said}"
            said += line
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert f"--resume --output {stopped}" in said.replace("\n", "")
    assert sorted(p.name for p in stopped.iterdir()) == ["checkpoint.npz", "history.json", "weights.npz"]
    done = len(history(stopped)["epochs"])
    assert 1 <= done < 500

    assert example.main(digits(stopped, "--resume", "--epochs", done + 1)) == 0
    assert example.main(digits(unbroken, *arguments, "--epochs", done + 1)) == 0
    assert_same_run(stopped, unbroken)


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send SIGINT in the middle of these training steps."""
    train_step = Trainer.train_step

    def step_with_signal(self: Trainer) -> None:
        for step in steps:
            if self.current_iter == step:
                signal.raise_signal(signal.SIGINT)
        train_step(self)

    monkeypatch.setattr(Trainer, "train_step", step_with_signal)


@pytest.mark.parametrize(("network", "dtype"), [("simple", "float32"), ("simple", "float64"), ("deep", "float32")])
@pytest.mark.parametrize("stop", [7, 14, 22], ids=["first epoch", "end of epoch", "second epoch"])
def test_resume_ends_bitwise_where_an_unbroken_run_ends(network, dtype, stop, example, tmp_path, monkeypatch):
    options = ("--network", network, "--dtype", dtype, "--epochs", 3, "--seed", 4)  # of 15 steps
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, stop)
        assert example.main(digits(stopped, *options)) == 130
    with np.load(stopped / "checkpoint.npz") as file:
        assert file["current_iter"] == stop + 1, "the step was finished"
    assert example.main(["--resume", "--output", str(stopped)]) == 0
    assert example.main(digits(unbroken, *options)) == 0
    assert_same_run(stopped, unbroken)


def test_ctrl_c_twice_aborts(example, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 20, 20)
        assert example.main(digits(tmp_path, "--epochs", 3)) == 130
    assert "aborted" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert file["current_iter"] == 15, "the checkpoint of the first epoch is whole"


def test_ctrl_c_in_the_last_step_is_no_interruption(example, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 14)
        assert example.main(digits(tmp_path, "--epochs", 1)) == 0


@pytest.fixture
def finished(example, tmp_path):
    assert example.main(digits(tmp_path, "--epochs", 2, "--seed", 4, "--batch-size", 50)) == 0
    return tmp_path


def test_resume_of_a_finished_run_changes_nothing(example, finished):
    before = weights(finished)
    assert example.main(["--resume", "--output", str(finished)]) == 0
    for name, array in weights(finished).items():
        assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "deep"], "--network deep is given, the run has simple"),
        (["--dataset", "mnist"], "--dataset mnist is given, the run has digits"),
        (["--seed", "5"], "--seed 5 is given, the run has 4"),
        (["--batch-size", "100"], "--batch-size 100 is given, the run has 50"),
        (["--dtype", "float64"], "--dtype float64 is given, the run has float32"),
        (["--learning-rate", "0.01"], "--learning-rate 0.01 is given, the run has 0.001"),
        (["--quick"], "--quick True is given, the run has False"),
        (["--seed", "5", "--dtype", "float64"], "--seed 5 is given, the run has 4; --dtype float64"),
        (["--epochs", "1"], "--epochs 1 is given, the run has done 2"),
    ],
)
def test_resume_with_other_options_is_refused(arguments, message, example, finished, capsys):
    before = (finished / "checkpoint.npz").read_bytes()
    assert example.main(["--resume", "--output", str(finished), *arguments]) == 2
    assert message in capsys.readouterr().out
    assert (finished / "checkpoint.npz").read_bytes() == before


def test_same_options_may_be_given_again(example, finished):
    arguments = ["--network", "simple", "--seed", "4", "--batch-size", "50", "--epochs", "3"]
    assert example.main([*digits(finished, "--resume"), *arguments]) == 0
    assert len(history(finished)["epochs"]) == 3


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_nothing_to_resume(content, example, tmp_path, capsys):
    if content is not None:
        (tmp_path / "checkpoint.npz").write_bytes(content)
    assert example.main(["--resume", "--output", str(tmp_path)]) == 2
    assert re.search("there is no .*checkpoint.npz|checkpoint.npz is not a checkpoint", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--batch-size", "x"], ["--network", "vgg"], ["--learning-rate", "-1"]]
)
def test_bad_options(arguments, example, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    assert f"argument {arguments[0]}: invalid" in capsys.readouterr().err


def test_without_data_the_embedded_digits_are_used(example, tmp_path, capsys, monkeypatch):
    nothing_there = tmp_path / "data"
    nothing_there.mkdir()
    # as if nothing were found anywhere, without waiting for a network
    loader = example.LOADERS["mnist"]
    monkeypatch.setitem(example.LOADERS, "mnist", lambda folder, **options: loader(nothing_there, **options))
    output = tmp_path / "out"
    arguments = ["--epochs", "1", "--output", str(output)]
    assert example.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("training on the embedded 8x8 digits instead.")
    assert lines[1].startswith("SimpleConvNet on digits: 1,500 training and 297 test images")
    assert history(output)["options"]["dataset"] == "mnist"
    assert example.main(["--resume", "--output", str(output)]) == 0


def test_a_folder_without_the_data_is_an_error(example, tmp_path, capsys):
    assert example.main(["--epochs", "1", "--output", str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    assert f"error: mnist is not in {tmp_path}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(("channels", "right"), [(1, 20), (3, 0)])
def test_pictures_of_any_images(channels, right, tmp_path, monkeypatch):
    """Grey and colours; none and all of the test images wrong."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import plots

    rng = np.random.default_rng(0)
    network = SimpleConvNet((channels, 12, 12), rng=0, dtype=np.float32)
    x = rng.random((20, channels, 12, 12), dtype=np.float32)
    predicted = network.predict(x).argmax(axis=1)
    t = (predicted + (np.arange(20) >= right)) % 10
    epochs = [{"epoch": 1, "loss": 2.0, "train_accuracy": 0.5, "test_accuracy": 0.4, "seconds": 1.0}]
    data = "cifar10" if channels == 3 else "mnist"
    plots.draw_all(tmp_path, network, epochs, network.params["W1"] / 2, x, t, data)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(PICTURES)


MNIST = Path(os.environ.get("NPCONV_DATA", "nowhere")) / "mnist"


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not here: set NPCONV_DATA to a folder that has mnist/")
def test_one_epoch_on_mnist(example, tmp_path):
    arguments = ["--epochs", "1", "--data", str(MNIST), "--output", str(tmp_path)]
    assert example.main(arguments) == 0
    report = history(tmp_path)
    assert report["options"]["data"] == "mnist"
    assert report["options"]["dtype"] == "float32"
    assert report["epochs"][0]["test_accuracy"] >= 0.975
