"""Train LeNet-5 on MNIST: as it was published in 1998, and as it would be written today.

    python examples/lenet.py
    python examples/lenet.py --quick        # a first impression

The published network is that of Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied
to document recognition", Proceedings of the IEEE 86 (1998):

    INPUT 32x32 -> C1: 6@28x28 -> S2: 6@14x14 -> C3: 16@10x10 -> S4: 16@5x5 -> C5: 120 -> F6: 84 -> 10

C1, C3 and C5 are convolutions of 5x5; each map of C3 sees only some of S2's.  S2 and S4 halve the images by means
of 2x2, each map with a coefficient and a bias to be learned.  After each of these layers comes a scaled tanh.
The modern form keeps the sizes, and has ReLU, max pooling, and all connections between the maps.

What differs from the paper: both end in a linear layer with softmax and cross entropy, in place of radial basis
functions that compare F6 with drawn pictures of the characters; and both are trained by Adam.

The output folder (runs/lenet) gets history.json, published.npz, modern.npz, and the pictures filters.png (what C1
looks for), activations.png (a digit on its way through the published network) and curves.png.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
import plots
from matplotlib.figure import Figure
from numpy.typing import NDArray

from npconv import datasets, nn, optimizers
from npconv import functional as F

Array = NDArray[Any]

# The paper's table I.  A row for each map of S2, a column for each map of C3: X where they are connected.
CONNECTIONS = """
    X...XXX..XXXX.XX
    XX...XXX..XXXX.X
    XXX...XXX..X.XXX
    .XXX..XXXX..X.XX
    ..XXX..XXXX.XX.X
    ...XXX..XXXX.XXX
"""


class ScaledTanh(nn.Module):
    """The paper's squashing function, ``1.7159 * tanh(2/3 * x)``: it maps 1 to 1 and -1 to -1."""

    def forward(self, x: Array) -> Array:
        self.tanh = np.tanh(x * 2 / 3)
        y: Array = 1.7159 * self.tanh
        return y

    def backward(self, dy: Array) -> Array:
        dx: Array = dy * (1.7159 * 2 / 3) * (1 - self.tanh**2)
        return dx


class Subsampling(nn.Module):
    """Means of 2x2 pixels, times a coefficient, plus a bias: each map has its own two.

    (The paper adds the four pixels up.  That is the same, for a coefficient of a quarter.)
    """

    parameter_names = "weight", "bias"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = np.ones((channels, 1, 1), np.float32)
        self.bias = np.zeros((channels, 1, 1), np.float32)

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        self.means = F.avg_pool2d(x, 2)
        return self.means * self.weight + self.bias

    def backward(self, dy: Array) -> Array:
        self.grads = {
            "weight": (dy * self.means).sum(axis=(0, 2, 3)).reshape(-1, 1, 1),
            "bias": dy.sum(axis=(0, 2, 3)).reshape(-1, 1, 1),
        }
        return F.avg_pool2d_backward(dy * self.weight, self.input_shape, 2)


class PartlyConnectedConv2d(nn.Conv2d):
    """A convolution in which an output map sees only those input maps that a table of 0 and 1 connects it with.

    `connected` is (in_channels, out_channels).  The other weights are zero, and without a gradient they stay so.
    """

    def __init__(self, connected: Array, kernel_size: int, rng: np.random.Generator) -> None:
        inputs, outputs = connected.shape
        super().__init__(inputs, outputs, kernel_size, rng=rng)
        self.mask = connected.T[:, :, np.newaxis, np.newaxis].astype(np.float32)
        self.weight *= self.mask

    def backward(self, dy: Array) -> Array | None:
        dx = super().backward(dy)
        self.grads["weight"] *= self.mask
        return dx


def published(rng: np.random.Generator) -> nn.Sequential:
    connected = np.array([[mark == "X" for mark in row] for row in CONNECTIONS.split()])
    layers = {
        "C1": nn.Conv2d(1, 6, 5, rng=rng),
        "C1_tanh": ScaledTanh(),
        "S2": Subsampling(6),
        "S2_tanh": ScaledTanh(),
        "C3": PartlyConnectedConv2d(connected, 5, rng),
        "C3_tanh": ScaledTanh(),
        "S4": Subsampling(16),
        "S4_tanh": ScaledTanh(),
        "C5": nn.Conv2d(16, 120, 5, rng=rng),
        "C5_tanh": ScaledTanh(),
        "flatten": nn.Flatten(),
        "F6": nn.Linear(120, 84, rng=rng),
        "F6_tanh": ScaledTanh(),
        "output": nn.Linear(84, 10, rng=rng),
    }
    return nn.Sequential(layers)


def modern(rng: np.random.Generator) -> nn.Sequential:
    layers = {
        "C1": nn.Conv2d(1, 6, 5, rng=rng),
        "C1_relu": nn.ReLU(),
        "P2": nn.MaxPool2d(2),
        "C3": nn.Conv2d(6, 16, 5, rng=rng),
        "C3_relu": nn.ReLU(),
        "P4": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "F5": nn.Linear(16 * 5 * 5, 120, rng=rng),
        "F5_relu": nn.ReLU(),
        "F6": nn.Linear(120, 84, rng=rng),
        "F6_relu": nn.ReLU(),
        "output": nn.Linear(84, 10, rng=rng),
    }
    return nn.Sequential(layers)


def prepare(x: Array) -> Array:
    """Return images of 32x32 from those of 28x28: paper is -0.1 and ink 1.175, so that the mean is about zero."""
    x = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    x *= 1.275
    x -= 0.1
    return x


def main() -> None:
    args = common.parser(__doc__, epochs=10, output="lenet", quick_epochs=2).parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_mnist, args, quick=(5000, 1000))
    x_train, x_test = prepare(x_train), prepare(x_test)

    models, histories = {}, {}
    for name, build in {"published": published, "modern": modern}.items():
        rng = np.random.default_rng(args.seed)
        model = models[name] = build(rng)
        print(f"\nLeNet-5, {name}")
        model.summary(x_train.shape[1:])
        if name == "published":
            print(
                "(900 of the weights of C3 are zero for good, as 36 of its 96 connections are left out: 60,850 learn)"
            )
        start = time.perf_counter()
        histories[name] = model.fit(
            x_train, t_train, epochs=args.epochs, batch_size=64, optimizer=optimizers.Adam(0.001),
            validation_data=(x_test, t_test), rng=rng,
        )  # fmt: skip
        seconds = (time.perf_counter() - start) / args.epochs
        accuracy = histories[name]["val_accuracy"][-1]
        print(f"{name}: final test accuracy {accuracy:.4f}, {seconds:.1f} s per epoch")
        common.save_weights(model.state_dict(), output / f"{name}.npz")

    common.save_json(histories, output / "history.json")
    draw(output, models, histories, x_test[0], int(t_test[0]))
    print(f"\nweights, history and pictures are in {output}")


def draw(output: Path, models: dict[str, nn.Sequential], histories: dict[str, Any], digit: Array, label: int) -> None:
    common.save_figure(filters(models), output / "filters.png")
    common.save_figure(activations(models["published"], digit, label), output / "activations.png")
    common.save_figure(curves(histories), output / "curves.png")


def filters(models: dict[str, nn.Sequential]) -> Figure:
    """The six filters of C1 in both networks."""
    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle("Filters of C1 after training: red weights look for ink, blue ones for paper")
    parts: Any = figure.subfigures(2, 1)
    for part, (name, model) in zip(parts, models.items(), strict=True):
        weights = model.parameters()["C1.weight"]
        limit = float(np.abs(weights).max())
        part.suptitle(f"{name}: weights {weights.min():+.2f} to {weights.max():+.2f}", fontsize=11)
        axes = plots.grid(part, len(weights), columns=6)
        for k, weight in enumerate(weights):
            image = plots.show(axes[k], weight, limit)
        part.colorbar(image, ax=axes)
    return figure


def activations(model: nn.Sequential, digit: Array, label: int) -> Figure:
    """What each layer of the published network makes of one digit."""
    maps = {name: y[0] for name, y in model.activations(digit[np.newaxis]).items()}
    scores = maps["output"]
    figure, axes = plt.subplots(2, 4, figsize=(14, 7), layout="constrained")
    figure.suptitle(
        f"A test image of a {label} inside the published LeNet-5, each layer after its tanh: red above zero, blue below"
    )
    pictures = {
        "input, 32x32": tiles(digit, 1),
        "C1: 6 convolutions, 28x28": tiles(maps["C1_tanh"], 2),
        "S2: halved to 14x14": tiles(maps["S2_tanh"], 2),
        "C3: 16 convolutions, 10x10": tiles(maps["C3_tanh"], 4),
        "S4: halved to 5x5": tiles(maps["S4_tanh"], 4),
        "C5: 120 numbers": maps["C5_tanh"].reshape(10, 12),
        "F6: 84 numbers": maps["F6_tanh"].reshape(7, 12),
    }
    for a, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        image = a.imshow(picture, cmap="RdBu_r", vmin=-1.7159, vmax=1.7159)
        a.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes[0, 3])
    last = axes[1, 3]
    last.bar(range(10), scores, color=["tab:red" if k == scores.argmax() else "tab:gray" for k in range(10)])
    last.set(title=f"output: it is a {scores.argmax()}", xlabel="digit", ylabel="score", xticks=range(10))
    return figure


def tiles(maps: Array, columns: int) -> Array:
    """Return maps (K, H, W) side by side in one image, with gaps of NaN, which are drawn white."""
    framed = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    _, height, width = framed.shape
    rows = framed.reshape(-1, columns, height, width).swapaxes(1, 2)
    image: Array = rows.reshape(-1, columns * width)
    return image


def curves(histories: dict[str, dict[str, list[float]]]) -> Figure:
    """Loss and accuracy of both networks, epoch by epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for (name, history), colour in zip(histories.items(), ("tab:blue", "tab:orange"), strict=True):
        epochs = range(1, len(history["loss"]) + 1)
        left.plot(epochs, history["loss"], "--", marker=".", color=colour, label=f"{name}, training images")
        left.plot(epochs, history["val_loss"], "-", marker="o", color=colour, label=f"{name}, test images")
        accuracy = history["val_accuracy"]
        right.plot(epochs, accuracy, "-", marker="o", color=colour, label=f"{name}: at the end {accuracy[-1]:.2%}")
    left.set(title="Loss (lower is better)", xlabel="epoch", ylabel="mean cross entropy")
    left.set_ylim(bottom=0)
    right.set(title="Accuracy on test images (higher is better)", xlabel="epoch", ylabel="share that is right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


if __name__ == "__main__":
    main()
