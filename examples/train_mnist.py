"""Train a network of the book on images, as the book does, and leave pictures to look at.

    python examples/train_mnist.py                          # SimpleConvNet on MNIST, 20 epochs
    python examples/train_mnist.py --network deep           # DeepConvNet, 10 epochs, over 99.3 %
    python examples/train_mnist.py --dataset fashion --epochs 5
    python examples/train_mnist.py --quick                  # a first impression
    python examples/train_mnist.py --resume                 # go on after Ctrl-C

The output folder (runs/<network>-<dataset>) gets weights.npz, history.json, checkpoint.npz and the
pictures curves.png, filters.png, filters_applied.png, feature_maps.png, confusion.png and mistakes.png.
Ctrl-C stops after the current step and keeps what is done; a second one aborts at once.  A resumed run
ends with bitwise the weights of an unbroken one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import npconv
from npconv import datasets
from npconv.models import DeepConvNet, SimpleConvNet
from npconv.trainer import Trainer

try:
    import plots
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
except ImportError as error:
    sys.exit(f'{error}: this example draws with matplotlib and rich: pip install "npconv[examples]"')

LOADERS = {
    "mnist": datasets.load_mnist,
    "fashion": datasets.load_fashion_mnist,
    "cifar10": datasets.load_cifar10,
}  # "digits" comes with npconv

# The options that decide what comes out: a resumed run must have the same.
DEFAULTS = {
    "network": "simple",
    "dataset": "mnist",
    "batch_size": 100,
    "learning_rate": 0.001,
    "seed": 2,
    "dtype": "float32",
    "quick": False,
}
EPOCHS = {"simple": 20, "deep": 10}
# The deep network learns quickly, and then jumps about: each epoch takes 3/4 of the learning rate of the one before.
DECAY = {"simple": 1.0, "deep": 0.75}
QUICK_TRAIN, QUICK_TEST, QUICK_EPOCHS = 5000, 1000, 3


class UsageError(Exception):
    """The options do not belong together; the message says which."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a network of the book on images and draw what it learned.",
        epilog="Ctrl-C stops cleanly; --resume goes on.",
    )
    # The default None means: not given, so that --resume can take it from the checkpoint.
    parser.add_argument("--network", choices=["simple", "deep"], help="of the book (default: simple)")
    parser.add_argument("--dataset", choices=[*LOADERS, "digits"], help="images to learn (default: mnist)")
    parser.add_argument("--epochs", type=positive(int), help="passes over the training images (default: 20, deep: 10)")
    parser.add_argument("--batch-size", type=positive(int), help="images per step (default: 100)")
    parser.add_argument("--learning-rate", type=positive(float), help="of Adam (default: 0.001)")
    parser.add_argument("--seed", type=not_negative, help="of all random numbers (default: 2)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of all arrays (default: float32)")
    parser.add_argument("--threads", type=positive(int), help="threads to compute with (default: all cores)")
    parser.add_argument("--output", type=Path, help="output folder (default: runs/<network>-<dataset>)")
    parser.add_argument("--data", type=Path, help="folder of the data set (default: search, then download)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument(
        "--quick", action="store_const", const=True,
        help=f"{QUICK_EPOCHS} epochs, {QUICK_TRAIN} training and {QUICK_TEST} test images: under a minute",
    )  # fmt: skip
    return parser.parse_args(argv)


def positive(kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"  # argparse: "invalid positive int value: '0'"
    return convert


def not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def new_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a new run: those given, else the defaults."""
    given = {name: getattr(args, name) for name in DEFAULTS}
    return {name: DEFAULTS[name] if value is None else value for name, value in given.items()}


def check_same_options(args: argparse.Namespace, options: dict[str, Any], checkpoint: Path) -> None:
    """Raise UsageError where an option given for a resumed run differs from that of the run."""
    differing = [
        f"--{name.replace('_', '-')} {value} is given, the run has {options[name]}"
        for name in DEFAULTS
        if (value := getattr(args, name)) is not None and value != options[name]
    ]
    if differing:
        raise UsageError(f"cannot resume {checkpoint}: {'; '.join(differing)}")


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint holds, and the options of its run."""
    if not path.exists():
        raise UsageError(f"nothing to resume: there is no {path}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = dict(arrays)
        return state, json.loads(str(state["history"]))["options"]
    except Exception as error:  # a damaged file can fail in many ways
        raise UsageError(f"{path} is not a checkpoint of this example: {error!r}") from error


def load_data(options: dict[str, Any], folder: Path | None, console: Console) -> tuple[str, list[Any]]:
    """Return the name of the data set that was found, and x_train, t_train, x_test and t_test."""
    name, dtype = options["dataset"], options["dtype"]
    try:
        arrays = LOADERS[name](folder, dtype=dtype) if name in LOADERS else None
    except datasets.DatasetNotFoundError as error:
        if folder:
            raise UsageError(str(error)) from error
        reason = str(error).splitlines()[0].rstrip(".")
        console.print(f"{reason}: training on the embedded 8x8 digits instead.", soft_wrap=True)
        arrays = None
    except ValueError as error:  # a damaged file; the message names it
        raise UsageError(str(error)) from error
    if arrays is None:
        name, arrays = "digits", datasets.load_digits_small(dtype=dtype)
    (x_train, t_train), (x_test, t_test) = arrays
    if options["quick"]:
        x_train, t_train = x_train[:QUICK_TRAIN], t_train[:QUICK_TRAIN]
        x_test, t_test = x_test[:QUICK_TEST], t_test[:QUICK_TEST]
    return name, [x_train, t_train, x_test, t_test]


def build_network(options: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if options["network"] == "deep":
        return DeepConvNet(shape, rng=rng, dtype=options["dtype"])
    # the book's filters of 5x5 are too large for images of 8x8
    conv_param = {"filter_num": 30, "filter_size": 5 if shape[1] >= 16 else 3, "pad": 0, "stride": 1}
    # He's initial weights learn sooner than the book's.  The filters start smaller yet: that costs no
    # accuracy, and afterwards they show what was learned, not what was drawn at random.
    network = SimpleConvNet(shape, conv_param, weight_init_std="he", rng=rng, dtype=options["dtype"])
    network.params["W1"] *= 0.1
    return network


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name and rename it: at no time is there half a file."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        write(file)
    os.replace(temporary, path)


class CtrlC:
    """While active, the first Ctrl-C sets `pressed`; the next one raises KeyboardInterrupt."""

    pressed = False

    def __enter__(self) -> CtrlC:
        self.previous = signal.signal(signal.SIGINT, self._first)
        return self

    def _first(self, *_: Any) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.previous)


class Run:
    """A training with its history, which can be saved to the output folder and taken up again."""

    def __init__(self, trainer: Trainer, options: dict[str, Any], output: Path) -> None:
        self.trainer = trainer
        self.output = output
        self.batch_accuracy: list[float] = []  # of every step
        self.history: dict[str, Any] = {"options": options, "epochs": [], "seconds": 0.0}
        self.clock = time.perf_counter()

    def resume(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)
        self.batch_accuracy = state["batch_accuracy"].tolist()
        self.history = json.loads(str(state["history"]))

    def save(self) -> None:
        """Write checkpoint, weights and history; each file whole or not at all."""
        self._count_time()
        state = self.trainer.state_dict()
        state["batch_accuracy"] = np.array(self.batch_accuracy)
        state["history"] = json.dumps(self.history)  # in the same file: the two can never disagree
        write_whole(self.output / "checkpoint.npz", lambda file: np.savez(file, **state))
        self.trainer.network.save_params(self.output / "weights.npz")
        text = json.dumps(self.history, indent=1) + "\n"
        write_whole(self.output / "history.json", lambda file: file.write(text.encode()))

    def train(self, console: Console) -> bool:
        """Train to the end of the last epoch, or to Ctrl-C; return whether it got to the end."""
        trainer = self.trainer
        columns = [
            TextColumn("epoch {task.fields[epoch]:3d}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.4f}"),
            TextColumn("{task.fields[speed]:,.0f} images/s"),
        ]
        steps = trainer.iter_per_epoch
        bar = Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal)
        with CtrlC() as ctrl_c, bar:
            task = bar.add_task("", total=steps, epoch=1, epochs=trainer.epochs, loss=0, accuracy=0, speed=0)
            seconds, images = 0.0, 0
            while trainer.current_iter < trainer.max_iter:
                start = time.perf_counter()
                options = self.history["options"]
                decay: float = DECAY[options["network"]] ** (trainer.current_iter // steps)
                trainer.optimizer.lr = options["learning_rate"] * decay
                trainer.train_step()
                seconds, images = seconds + time.perf_counter() - start, images + trainer.batch_size
                last = trainer.network.last_layer
                self.batch_accuracy.append(float(np.mean(last.y.argmax(axis=1) == last.t)))

                epoch, step = divmod(trainer.current_iter, steps)  # both of the steps that are done
                bar.update(
                    task, completed=step or steps, epoch=epoch + (step > 0), speed=images / seconds,
                    loss=np.mean(trainer.train_loss_list[-100:]),
                    accuracy=np.mean(self.batch_accuracy[-100:]),
                )  # fmt: skip
                if step == 0:
                    self._end_epoch(epoch, console)
                    self.save()
                    bar.reset(task)
                    seconds, images = 0.0, 0
                if ctrl_c.pressed and trainer.current_iter < trainer.max_iter:
                    self.save()
                    return False
        self.save()
        return True

    def _end_epoch(self, epoch: int, console: Console) -> None:
        trainer = self.trainer
        before = sum(e["seconds"] for e in self.history["epochs"])
        test_accuracy = trainer.network.accuracy(trainer.x_test, trainer.t_test)
        self._count_time()
        result = {
            "epoch": epoch,
            "loss": float(np.mean(trainer.train_loss_list[-trainer.iter_per_epoch :])),
            "train_accuracy": float(np.mean(self.batch_accuracy[-trainer.iter_per_epoch :])),
            "test_accuracy": test_accuracy,
            "seconds": self.history["seconds"] - before,
        }
        self.history["epochs"].append(result)
        console.print(
            f"epoch {epoch:3d}/{trainer.epochs}  loss {result['loss']:.4f}  "
            f"accuracy {result['train_accuracy']:.4f}  test accuracy {test_accuracy:.4f}  "
            f"{result['seconds']:.1f} s"
        )

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.history["seconds"] += now - self.clock
        self.clock = now


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        return train(args, console)
    except UsageError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("aborted; what the last checkpoint holds is kept (--resume)")
        return 130


def train(args: argparse.Namespace, console: Console) -> int:
    folder = f"{args.network or DEFAULTS['network']}-{args.dataset or DEFAULTS['dataset']}"
    output = args.output or Path("runs") / folder
    checkpoint = output / "checkpoint.npz"
    if args.resume:
        state, saved = read_checkpoint(checkpoint)
        options, epochs = {name: saved[name] for name in DEFAULTS}, args.epochs or saved["epochs"]
        check_same_options(args, options, checkpoint)
    else:
        options = new_options(args)
        epochs = args.epochs or (QUICK_EPOCHS if options["quick"] else EPOCHS[options["network"]])
    if args.threads:
        npconv.set_num_threads(args.threads)
    output.mkdir(parents=True, exist_ok=True)

    data_name, data = load_data(options, args.data, console)
    if args.resume and data_name != saved["data"]:
        raise UsageError(f"cannot resume {checkpoint}: its data are {saved['data']}, found are {data_name}")
    x_train, t_train, x_test, t_test = data
    rng = np.random.default_rng(options["seed"])
    network = build_network(options, x_train.shape[1:], rng)
    filters_before = network.params["W1"].copy()
    trainer = Trainer(
        network, x_train, t_train, x_test, t_test, epochs=epochs, mini_batch_size=options["batch_size"],
        optimizer="Adam", optimizer_param={"lr": options["learning_rate"]},
        evaluate_sample_num_per_epoch=0,  # it is the run that evaluates, on all test images
        verbose=False, rng=rng,
    )  # fmt: skip
    run = Run(trainer, options | {"data": data_name, "epochs": epochs}, output)
    if args.resume:
        try:
            run.resume(state)
        except (KeyError, ValueError) as error:
            raise UsageError(f"cannot resume {checkpoint}: {error}") from error
        if trainer.current_iter > trainer.max_iter:
            raise UsageError(f"--epochs {epochs} is given, the run has done {len(run.history['epochs'])}")
        run.history["options"]["epochs"] = epochs

    console.print(
        f"{type(network).__name__} on {data_name}: "
        f"{len(x_train):,} training and {len(x_test):,} test images, "
        f"{epochs} epochs, batch {options['batch_size']}, {options['dtype']}, seed {options['seed']}, "
        f"{npconv.get_num_threads()} threads",
        soft_wrap=True,
    )
    finished = run.train(console)
    if not finished:
        done = f"{trainer.current_iter:,} of {trainer.max_iter:,} steps"
        console.print(f"stopped after {done}; all is saved in {output}", soft_wrap=True)
        where = f"--output {output}" + (f" --data {args.data}" if args.data else "")
        console.print(f"to go on: python {sys.argv[0]} --resume {where}", soft_wrap=True)
        return 130

    final = run.history["epochs"][-1]["test_accuracy"]
    console.print(
        f"final test accuracy {final:.4f}, seed {options['seed']}, {run.history['seconds']:.1f} s in all",
        soft_wrap=True,
    )
    plots.draw_all(output, network, run.history["epochs"], filters_before, x_test, t_test, data_name)
    console.print(f"weights, history and pictures are in {output}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
