"""Dropout against overfitting: one network, with and without it, on far too few images (MNIST).

A network of six hidden layers learns 300 digits by heart: it reads all of them right, but new ones less well.  That
gap is called overfitting.  Dropout switches off a random part of the neurons in each step of the training, so that
none can rely on another; the network learns more slowly, and the gap becomes smaller.

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
from npconv.optimizers import SGD

IMAGES = 300
HIDDEN = [100] * 6
RATIOS = {"without dropout": 0.0, "with dropout": 0.2}


def network(ratio: float, rng: np.random.Generator) -> nn.Sequential:
    """Six hidden layers of 100 neurons, behind each of which `ratio` of the neurons are dropped."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = 784
    for neurons in HIDDEN:
        layer = nn.Linear(size, neurons, rng=rng)
        layer.weight *= 6**0.5  # He's initial weights: so many layers would learn nothing from smaller ones
        layers += [layer, nn.ReLU()]
        if ratio > 0:
            layers.append(nn.Dropout(ratio, rng=rng))
        size = neurons
    return nn.Sequential(*layers, nn.Linear(size, 10, rng=rng))


class Measure:
    """Measures after each epoch, with all neurons switched on: on the training images, and on the test images."""

    def __init__(self, train: tuple[Any, Any], test: tuple[Any, Any]) -> None:
        self.train, self.test = train, test
        self.accuracy: dict[str, list[float]] = {"train": [], "test": []}

    def on_epoch_end(self, model: nn.Sequential, epoch: int, logs: dict[str, float]) -> None:
        self.accuracy["train"].append(model.evaluate(*self.train)[1])
        self.accuracy["test"].append(model.evaluate(*self.test, batch_size=1000)[1])


def main() -> None:
    args = common.parser(__doc__, epochs=301, output="dropout", quick_epochs=60).parse_args()
    output = common.start(args)
    (x_train, t_train), test = common.load(datasets.load_mnist, args, quick=(IMAGES, 1000))
    train = x_train[:IMAGES], t_train[:IMAGES]
    print(f"training on {IMAGES} images, testing on {len(test[0]):,}")

    results: dict[str, Any] = {}
    for name, ratio in RATIOS.items():
        rng = np.random.default_rng(args.seed)
        model, measure = network(ratio, rng), Measure(train, test)
        start = time.perf_counter()
        # The bar counts batches of one epoch; here the epochs are many and short.
        for epoch in common.progress(range(args.epochs), name):
            model.fit(*train, batch_size=100, optimizer=SGD(0.05), rng=rng, verbose=False)
            measure.on_epoch_end(model, epoch, {})
        seconds = (time.perf_counter() - start) / args.epochs
        last = {kind: values[-1] for kind, values in measure.accuracy.items()}
        results[name] = {**measure.accuracy, "gap": last["train"] - last["test"], "seconds_per_epoch": seconds}
        print(
            f"{name}: training accuracy {last['train']:.3f}, test accuracy {last['test']:.3f}, "
            f"gap {results[name]['gap']:.3f}, {1000 * seconds:.0f} ms per epoch"
        )
        model.save_params(output / f"{name.replace(' ', '_')}.npz")

    common.save_json({"seed": args.seed, "dropout_ratios": RATIOS, "results": results}, output / "history.json")
    common.save_figure(curves(results), output / "curves.png")
    print(f"weights, history and the picture are in {output}")


def curves(results: dict[str, Any]) -> Figure:
    """Accuracy on training and on test images of both networks, side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for a, (name, result) in zip(axes, results.items(), strict=True):
        epochs = np.arange(1, len(result["train"]) + 1)
        a.plot(epochs, result["train"], color="tab:gray", label=f"{IMAGES} training images")
        a.plot(epochs, result["test"], color="tab:blue", label="test images")
        a.fill_between(epochs, result["train"], result["test"], color="tab:orange", alpha=0.25, label="the gap")
        a.set(title=f"{name}: at the end a gap of {result['gap']:.1%}", xlabel="epoch", ylim=(0, 1.02))
        a.legend(loc="lower right")
        a.grid(alpha=0.3)
    axes[0].set_ylabel("share of images that are right")
    return figure


if __name__ == "__main__":
    main()
