"""A small convolutional network learns to tell ten kinds of things on colour photographs (CIFAR-10).

Two convolutions, each followed by ReLU and pooling, and three fully connected layers: 62,006 weights.  It is trained
with stochastic gradient descent and momentum, four images at a time.

    python examples/cifar10.py            # 2 epochs, under a minute
    python examples/cifar10.py --quick    # a first impression

The output folder then holds weights and history, how the loss fell, the accuracy of each class, and test images with
what the network takes them for.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from plots import CLASS_NAMES, grid, show
from tqdm import tqdm  # type: ignore[import-untyped]

from npconv import datasets, nn
from npconv.layers import softmax
from npconv.optimizers import Momentum

Array = NDArray[Any]

NAMES = CLASS_NAMES["cifar10"]
BATCH_SIZE = 4


def network(rng: np.random.Generator) -> nn.Sequential:
    """The layers; the names are those of its weights in the saved file."""
    return nn.Sequential({
        "conv1": nn.Conv2d(3, 6, 5, rng=rng),  # 3 colours of 32x32 become 6 channels of 28x28
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),  # 14x14
        "conv2": nn.Conv2d(6, 16, 5, rng=rng),  # 16 channels of 10x10
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),  # 5x5
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(16 * 5 * 5, 120, rng=rng),
        "relu3": nn.ReLU(),
        "fc2": nn.Linear(120, 84, rng=rng),
        "relu4": nn.ReLU(),
        "fc3": nn.Linear(84, 10, rng=rng),
    })  # fmt: skip


class PrintLoss:
    """Prints the mean loss of every 2,000 batches, and keeps it."""

    def __init__(self, every: int = 2000) -> None:
        self.every = every
        self.total = 0.0
        self.losses: list[float] = []

    def on_batch_end(self, model: nn.Sequential, batch: int, logs: dict[str, Any]) -> None:
        self.total = logs["loss"] if batch == 0 else self.total + logs["loss"]
        if (batch + 1) % self.every == 0:
            self.losses.append(self.total / self.every)
            self.total = 0.0
            tqdm.write(f"  epoch {logs['epoch'] + 1}, batch {batch + 1:6,}: loss {self.losses[-1]:.3f}")


def main() -> int:
    args = common.parser(__doc__, epochs=2, output="cifar10").parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_cifar10, args, quick=(16000, 2000))
    x_train, x_test = (x_train - 0.5) / 0.5, (x_test - 0.5) / 0.5  # from 0..1 to -1..1

    rng = np.random.default_rng(args.seed)
    model = network(rng)
    model.summary(x_train.shape[1:])
    printer = PrintLoss()
    start = time.perf_counter()
    print(f"start: {time.strftime('%Y-%m-%d %H:%M:%S')}")
    history: dict[str, Any] = model.fit(
        x_train, t_train, epochs=args.epochs, batch_size=BATCH_SIZE, optimizer=Momentum(lr=0.001, momentum=0.9),
        validation_data=(x_test, t_test), callbacks=[printer], rng=rng,
    )  # fmt: skip
    print(f"end:   {time.strftime('%Y-%m-%d %H:%M:%S')}")
    history["seconds_per_epoch"] = (time.perf_counter() - start) / args.epochs

    scores = model.predict(x_test)
    right = scores.argmax(axis=1) == t_test
    by_class = {name: float(np.mean(right[t_test == label])) for label, name in enumerate(NAMES)}
    for name, accuracy in by_class.items():
        print(f"accuracy of {name + ':':10} {accuracy:.1%}")
    print(f"test accuracy {np.mean(right):.4f}, {history['seconds_per_epoch']:.1f} s per epoch")

    model.save_params(output / "weights.npz")
    history |= {"seed": args.seed, "loss_of_2000_batches": printer.losses, "accuracy_by_class": by_class}
    common.save_json(history, output / "history.json")
    common.save_figure(results(printer, by_class, float(np.mean(right))), output / "results.png")
    common.save_figure(predictions(x_test * 0.5 + 0.5, t_test, scores), output / "predictions.png")
    print(f"weights, history and pictures are in {output}")
    return 0


def results(printer: PrintLoss, by_class: dict[str, float], accuracy: float) -> Figure:
    """How the loss fell, and the accuracy of each class."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    left.plot(printer.every * np.arange(1, len(printer.losses) + 1), printer.losses, "o-", color="tab:red")
    title = f"Loss on training images, mean of {printer.every:,} batches each (lower is better)"
    left.set(title=title, xlabel=f"batches of {BATCH_SIZE} images", ylabel="mean cross entropy", ylim=(0, None))
    left.axhline(np.log(10), color="gray", linestyle=":", label="guessing among ten classes")
    left.legend(loc="lower left")
    left.grid(alpha=0.3)
    bars = right.barh(list(by_class), list(by_class.values()), color="tab:blue")
    right.bar_label(bars, fmt="{:.0%}", padding=3)
    right.axvline(0.1, color="gray", linestyle=":", label="guessing")
    right.axvline(accuracy, color="tab:orange", linestyle="--", label=f"all classes: {accuracy:.1%}")
    right.set(title="Accuracy on test images of each class", xlabel="share of images that are right", xlim=(0, 1))
    right.invert_yaxis()
    right.legend(loc="lower right")
    return figure


def predictions(x: Array, t: Array, scores: Array, count: int = 32) -> Figure:
    """The first test images with what the network takes them for: green is right, red wrong."""
    probability = softmax(scores)
    predicted = scores.argmax(axis=1)
    figure = plt.figure(figsize=(13, 8.4), layout="constrained")
    share = f"{np.count_nonzero(predicted[:count] == t[:count])} of {len(t[:count])}"
    figure.suptitle(f"The first test images and what the network takes them for: {share} are right")
    for i, axes in enumerate(grid(figure, min(count, len(x)), columns=8)):
        show(axes, x[i].clip(0, 1))
        title = f"{NAMES[predicted[i]]} ({probability[i, predicted[i]]:.0%})"
        if predicted[i] != t[i]:
            title += f"\nis: {NAMES[t[i]]}"
        axes.set_title(title, fontsize=10, color="tab:green" if predicted[i] == t[i] else "tab:red")
    return figure


if __name__ == "__main__":
    sys.exit(main())
