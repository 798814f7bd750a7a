"""A dense network against a convolutional one on clothes (Fashion-MNIST), and a look inside the latter.

The dense network has one hidden layer of 128 neurons.  The convolutional one puts two convolutions of 64 filters
before it, each followed by pooling.  Both start as in Keras, and are trained with Adam on batches of 32 images.

    python examples/fashion_mnist.py            # 10 epochs, about 3 minutes
    python examples/fashion_mnist.py --quick    # a first impression

The output folder then holds the weights and the history of both, their curves, and what every layer of the
convolutional network makes of one test image.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from plots import CLASS_NAMES, show

from npconv import datasets, nn
from npconv.layers import softmax
from npconv.optimizers import Adam

Array = NDArray[Any]

NAMES = CLASS_NAMES["fashion"]
COLORS = {"dense": "tab:orange", "CNN": "tab:blue"}


def dense(rng: np.random.Generator) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential({
        "flatten": nn.Flatten(),
        "dense1": nn.Linear(784, 128, rng=rng),
        "relu1": nn.ReLU(),
        "dense2": nn.Linear(128, 10, rng=rng),
    })  # fmt: skip


def cnn(rng: np.random.Generator) -> nn.Sequential:
    """The same behind two convolutions with pooling."""
    return nn.Sequential({
        "conv1": nn.Conv2d(1, 64, 3, rng=rng),  # no padding: 28x28 becomes 26x26
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(64, 64, 3, rng=rng),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),  # 64 channels of 5x5 are 1600 numbers
        "dense1": nn.Linear(1600, 128, rng=rng),
        "relu3": nn.ReLU(),
        "dense2": nn.Linear(128, 10, rng=rng),
    })  # fmt: skip


def glorot(model: nn.Sequential, rng: np.random.Generator) -> nn.Sequential:
    """Draw the initial weights as Keras does, evenly from -limit to limit (X. Glorot and Y. Bengio, 2010)."""
    for name, weights in model.parameters().items():
        if name.endswith("bias"):
            weights[...] = 0
        else:
            pixels = math.prod(weights.shape[2:])
            limit = math.sqrt(6 / (pixels * (weights.shape[0] + weights.shape[1])))
            weights[...] = rng.uniform(-limit, limit, weights.shape)
    return model


def main() -> int:
    args = common.parser(__doc__, epochs=10, output="fashion_mnist").parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_fashion_mnist, args, quick=(8000, 1000))

    histories: dict[str, Any] = {}
    for name, build in (("dense", dense), ("CNN", cnn)):
        rng = np.random.default_rng(args.seed)
        model = glorot(build(rng), rng)
        print(f"\n{name}")
        model.summary(x_train.shape[1:])
        start = time.perf_counter()
        history: dict[str, Any] = model.fit(
            x_train, t_train, epochs=args.epochs, batch_size=32, optimizer=Adam(lr=0.001),
            validation_data=(x_test, t_test), rng=rng,
        )  # fmt: skip
        history["seconds_per_epoch"] = (time.perf_counter() - start) / args.epochs
        histories[name] = history
        model.save_params(output / f"{name.lower()}.npz")

    print()
    for name, history in histories.items():
        accuracy, test_accuracy = history["accuracy"][-1], history["val_accuracy"][-1]
        seconds = history["seconds_per_epoch"]
        print(f"{name}: training accuracy {accuracy:.4f}, test accuracy {test_accuracy:.4f}, {seconds:.1f} s per epoch")
    common.save_json({"seed": args.seed, "networks": histories}, output / "history.json")
    common.save_figure(curves(histories), output / "curves.png")
    common.save_figure(inside(model, x_test[0], NAMES[t_test[0]]), output / "activations.png")
    print(f"weights, history and pictures are in {output}")
    return 0


def curves(histories: dict[str, Any]) -> Figure:
    """Loss and accuracy of both networks after each epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, history in histories.items():
        epochs = range(1, len(history["loss"]) + 1)
        for axes, kind in ((left, "loss"), (right, "accuracy")):
            train, test = history[kind], history[f"val_{kind}"]
            axes.plot(epochs, train, "o--", color=COLORS[name], alpha=0.5, label=f"{name}, training images")
            axes.plot(epochs, test, "o-", color=COLORS[name], label=f"{name}, test images")
    left.set(title="Loss (lower is better)", xlabel="epoch", ylabel="mean cross entropy", ylim=(0, None))
    right.set(title="Accuracy (higher is better)", xlabel="epoch", ylabel="share of images that are right")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def inside(model: nn.Sequential, image: Array, name: str) -> Figure:
    """What each layer makes of one image: of maps a mosaic, of numbers bars."""
    activations = {layer: y[0] for layer, y in model.activations(image[np.newaxis]).items()}
    figure, axes = plt.subplots(3, 4, figsize=(17, 13), layout="constrained")
    figure.suptitle(
        f"A test image ({name}) on its way through the network: red is above zero, blue below; ReLU makes blue zero",
        fontsize=15,
    )
    places = iter(axes.ravel())
    place = next(places)
    show(place, image)
    place.set_title("the image, 28x28")
    for layer, y in activations.items():
        place = next(places)
        limit = float(np.quantile(np.abs(y), 0.995)) or 1.0  # a few extremes shall not make the rest pale
        if y.ndim == 3:
            place.set_title(f"{layer}: {y.shape[0]} maps of {y.shape[1]}x{y.shape[2]}")
            place.imshow(mosaic(y, limit), cmap="RdBu_r", vmin=-limit, vmax=limit)
            place.set(xticks=[], yticks=[])
        elif layer == "flatten":
            place.set_title(f"flatten: {y.size:,} numbers (50 a line)")
            place.imshow(y.reshape(-1, 50), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            place.set(xticks=[], yticks=[])
        elif y.size > 10:
            place.set_title(f"{layer}: {y.size} numbers")
            place.bar(range(y.size), y, width=1, color=np.where(y > 0, "tab:red", "tab:blue"))
            place.set_xlabel("neuron")
        else:
            bars(place, y)
            place.set_title(f"{layer}: a score for each class")
    probability = softmax(activations["dense2"])
    place = next(places)
    bars(place, probability)
    place.set(title=f"softmax of the scores: {probability.max():.0%} {NAMES[probability.argmax()]}", xlim=(0, 1))
    return figure


def mosaic(maps: Array, border: float) -> Array:
    """Put maps (64, H, W) side by side, 8 in a row, with lines of the value `border` between them."""
    framed = np.pad(maps, ((0, 0), (0, 1), (0, 1)), constant_values=border)
    count, height, width = framed.shape
    image: Array = framed.reshape(8, count // 8, height, width).transpose(0, 2, 1, 3).reshape(8 * height, -1)
    return image


def bars(axes: Any, values: Array) -> None:
    """Draw a number for each class."""
    axes.barh(NAMES, values, color=np.where(values > 0, "tab:red", "tab:blue"))
    axes.invert_yaxis()  # class 0 on top


if __name__ == "__main__":
    sys.exit(main())
