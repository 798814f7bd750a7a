"""A fully connected network against a small convolutional one, on handwritten digits (MNIST).

The first sees an image as a row of 784 numbers and has 575,050 weights.  The second, Net2, looks for small patterns
with convolutions wherever they are, and needs 8,490.  Both are trained the same way: stochastic gradient descent with
momentum, batches of 64 images.

    python examples/mnist_mlp_vs_cnn.py            # 10 epochs, about 2 minutes
    python examples/mnist_mlp_vs_cnn.py --quick    # a first impression

The output folder then holds the weights and the history of both, their curves, and digits which only one of them reads.
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
from plots import grid, show
from tqdm import tqdm  # type: ignore[import-untyped]

from npconv import datasets, nn
from npconv.optimizers import Momentum

Array = NDArray[Any]

MEAN, STD = 0.1307, 0.3081  # of all pixels of MNIST
COLORS = {"MLP": "tab:orange", "Net2": "tab:blue"}


def mlp(rng: np.random.Generator) -> nn.Sequential:
    """Fully connected layers, each smaller than the one before (a multi-layer perceptron)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512, rng=rng), nn.ReLU(),
        nn.Linear(512, 256, rng=rng), nn.ReLU(),
        nn.Linear(256, 128, rng=rng), nn.ReLU(),
        nn.Linear(128, 64, rng=rng), nn.ReLU(),
        nn.Linear(64, 10, rng=rng),
    )  # fmt: skip


def net2(rng: np.random.Generator) -> nn.Sequential:
    """Two convolutions, each followed by pooling, and one fully connected layer."""
    return nn.Sequential(
        nn.Conv2d(1, 10, 5, rng=rng), nn.MaxPool2d(2), nn.ReLU(),  # 28x28 -> 24x24 -> 12x12
        nn.Conv2d(10, 20, 5, rng=rng), nn.MaxPool2d(2), nn.ReLU(),  # 12x12 -> 8x8 -> 4x4
        nn.Flatten(),  # 20 channels of 4x4 are 320 numbers
        nn.Linear(320, 10, rng=rng),
    )  # fmt: skip


class PrintLoss:
    """Prints the loss of every 300th batch."""

    def __init__(self, batches: int) -> None:
        self.batches = batches  # of an epoch

    def on_batch_end(self, model: nn.Sequential, batch: int, logs: dict[str, Any]) -> None:
        if batch % 300 == 0:
            tqdm.write(f"  epoch {logs['epoch'] + 1}, batch {batch:3d} of {self.batches}: loss {logs['loss']:.4f}")


def main() -> int:
    args = common.parser(__doc__, epochs=10, output="mnist_mlp_vs_cnn", quick_epochs=3).parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_mnist, args, quick=(20000, 2000))
    x_train, x_test = (x_train - MEAN) / STD, (x_test - MEAN) / STD

    histories: dict[str, Any] = {}
    predictions: dict[str, Array] = {}
    for name, build in (("MLP", mlp), ("Net2", net2)):
        rng = np.random.default_rng(args.seed)
        model = build(rng)
        print(f"\n{name}")
        model.summary(x_train.shape[1:])
        start = time.perf_counter()
        history: dict[str, Any] = model.fit(
            x_train, t_train, epochs=args.epochs, batch_size=64, optimizer=Momentum(lr=0.01, momentum=0.5),
            validation_data=(x_test, t_test), callbacks=[PrintLoss(-(-len(x_train) // 64))], rng=rng,
        )  # fmt: skip
        history["seconds_per_epoch"] = (time.perf_counter() - start) / args.epochs
        histories[name] = history
        predictions[name] = model.predict(x_test).argmax(axis=1)
        model.save_params(output / f"{name.lower()}.npz")

    print()
    for name, history in histories.items():
        accuracy, seconds = history["val_accuracy"][-1], history["seconds_per_epoch"]
        print(f"{name}: test accuracy {accuracy:.4f}, {seconds:.1f} s per epoch")
    common.save_json({"seed": args.seed, "networks": histories}, output / "history.json")
    common.save_figure(curves(histories), output / "curves.png")
    common.save_figure(differences(x_test * STD + MEAN, t_test, predictions), output / "differences.png")
    print(f"weights, history and pictures are in {output}")
    return 0


def curves(histories: dict[str, Any]) -> Figure:
    """Loss and accuracy of both networks after each epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, history in histories.items():
        epochs = range(1, len(history["loss"]) + 1)
        left.plot(epochs, history["loss"], "o--", color=COLORS[name], alpha=0.5, label=f"{name}, training images")
        left.plot(epochs, history["val_loss"], "o-", color=COLORS[name], label=f"{name}, test images")
        accuracy = history["val_accuracy"]
        right.plot(epochs, accuracy, "o-", color=COLORS[name], label=f"{name} (at the end {accuracy[-1]:.2%})")
    left.set(title="Loss (lower is better)", xlabel="epoch", ylabel="mean cross entropy", ylim=(0, None))
    right.set(
        title="Accuracy on test images (higher is better)", xlabel="epoch", ylabel="share of images that are right"
    )
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def differences(x: Array, t: Array, predictions: dict[str, Array], most: int = 10) -> Figure:
    """Test images which only one of the networks reads right."""
    right = {name: prediction == t for name, prediction in predictions.items()}
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    for part, (name, other) in zip(parts, (("Net2", "MLP"), ("MLP", "Net2")), strict=True):
        found = np.flatnonzero(right[name] & ~right[other])
        part.suptitle(f"{len(found):,} of {len(t):,} test images only {name} reads right, for example")
        for axes, i in zip(grid(part, min(len(found), most), columns=5), found[:most], strict=False):
            show(axes, x[i])
            axes.set_title(f"a {t[i]}; {other} says {predictions[other][i]}", fontsize=10)
    return figure


if __name__ == "__main__":
    sys.exit(main())
