"""Dropout against overfitting: one network, with and without it, on far too few images (MNIST).

A convolutional network of 582 thousand weights learns 300 digits by heart: it reads all of them right, but of new ones
one in six wrong, and it is sure of itself all the same.  That gap is called overfitting.  Dropout switches off a
random half of the pixels, maps and neurons in each step of the training, so that none can rely on another: the gap in
accuracy becomes smaller by a quarter, and that in the loss, which goes on growing without dropout, by two thirds.

    python examples/dropout.py            # about a minute
    python examples/dropout.py --quick    # a first impression

(Book: section 6.4.  N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.)

The output folder (runs/dropout) gets history.json, curves.png and the weights of both networks.
"""

from __future__ import annotations

import time
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from npconv import datasets, nn
from npconv.optimizers import Adam

IMAGES, TEST_IMAGES = 300, 2000
RATIOS = {"without dropout": 0.0, "with dropout": 0.5}
COLORS = {"without dropout": "tab:red", "with dropout": "tab:blue"}


def network(ratio: float, rng: np.random.Generator) -> nn.Sequential:
    """Two convolutions and a hidden layer; `ratio` of what goes into each of them is dropped."""

    def drop() -> nn.Dropout:
        return nn.Dropout(ratio, rng=rng)

    return nn.Sequential(
        drop(), nn.Conv2d(1, 32, 5, rng=rng), nn.ReLU(), nn.MaxPool2d(2),
        drop(), nn.Conv2d(32, 64, 5, rng=rng), nn.ReLU(), nn.MaxPool2d(2),
        drop(), nn.Flatten(), nn.Linear(64 * 4 * 4, 512, rng=rng), nn.ReLU(),
        drop(), nn.Linear(512, 10, rng=rng),
    )  # fmt: skip


class Measure:
    """Measures loss and accuracy after each epoch, with nothing dropped: on training images and on test images."""

    def __init__(self, train: tuple[Any, Any], test: tuple[Any, Any]) -> None:
        self.data = {"train": train, "test": test}
        self.curves: dict[str, list[float]] = {
            "train_loss": [], "train_accuracy": [], "test_loss": [], "test_accuracy": []
        }  # fmt: skip

    def __call__(self, model: nn.Sequential, epoch: int, logs: dict[str, float]) -> None:
        for name, (x, t) in self.data.items():
            loss, accuracy = model.evaluate(x, t)
            self.curves[f"{name}_loss"].append(loss)
            self.curves[f"{name}_accuracy"].append(accuracy)


def main() -> None:
    args = common.parser(__doc__, epochs=300, output="dropout", quick_epochs=12).parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_mnist, args, quick=(IMAGES, 500))
    train, test = (x_train[:IMAGES], t_train[:IMAGES]), (x_test[:TEST_IMAGES], t_test[:TEST_IMAGES])
    print(f"training on {len(train[0])} images, testing on {len(test[0]):,}")

    results: dict[str, Any] = {}
    for name, ratio in RATIOS.items():
        rng = np.random.default_rng(args.seed)
        model, measure, optimizer = network(ratio, rng), Measure(train, test), Adam(0.001)
        start = time.perf_counter()
        for epoch in common.progress(range(args.epochs), name):  # so short that the bar counts epochs
            model.fit(*train, batch_size=50, optimizer=optimizer, rng=rng, verbose=False)
            measure(model, epoch, {})
        last = {kind: values[-1] for kind, values in measure.curves.items()}
        gap, loss_gap = last["train_accuracy"] - last["test_accuracy"], last["test_loss"] - last["train_loss"]
        seconds = (time.perf_counter() - start) / args.epochs
        results[name] = {**measure.curves, "gap": gap, "loss_gap": loss_gap, "seconds_per_epoch": seconds}
        print(
            f"{name}: training accuracy {last['train_accuracy']:.3f}, test accuracy {last['test_accuracy']:.3f}, "
            f"gap {gap:.3f}; test loss {last['test_loss']:.3f}"
        )
        model.save_params(output / f"{name.replace(' ', '_')}.npz")

    common.save_json({"seed": args.seed, "dropout_ratios": RATIOS, "results": results}, output / "history.json")
    common.save_figure(curves(results), output / "curves.png")
    print(f"weights, history and the picture are in {output}")


def curves(results: dict[str, Any]) -> Figure:
    """Accuracy and loss of both networks, on training and on test images: the gap is what lies between."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for axes, kind in ((left, "accuracy"), (right, "loss")):
        for name, result in results.items():
            train, test = result[f"train_{kind}"], result[f"test_{kind}"]
            epochs = np.arange(1, len(train) + 1)
            axes.plot(epochs, train, "--", color=COLORS[name], label=f"{name}: training images")
            axes.plot(epochs, test, "-", color=COLORS[name], label=f"{name}: test images")
            axes.fill_between(epochs, train, test, color=COLORS[name], alpha=0.1)
        axes.set_xlabel("epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    gaps = ", ".join(f"{result['gap']:.1%} {name}" for name, result in results.items())
    left.set(title=f"Accuracy: the gap is {gaps}", ylabel="share of images that are right", ylim=(0.5, 1.01))
    right.set(title="Loss: the lower, the surer of what is right", ylabel="mean cross entropy", ylim=(0, None))
    return figure


if __name__ == "__main__":
    main()
