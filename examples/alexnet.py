"""AlexNet, the network that made deep learning known: once as published, and a small one that learns CIFAR-10.

    python examples/alexnet.py             # about three minutes on two cores
    python examples/alexnet.py --quick     # a first impression

First the whole network of the paper [1], 61 million numbers, takes crops of a photograph forward and backward once.
Nothing is learned from that; it shows the shapes, the time and the memory.  Then a network of the same layers, but
of 369 thousand numbers, is trained on CIFAR-10 for 5 epochs.

What AlexNet brought together: ReLU instead of sigmoids, local response normalization, pooling windows that overlap
(3x3, every 2 pixels), dropout, and convolutions in two groups, which once stood on two graphics cards.

The output folder (runs/alexnet) gets history.json, weights.npz, curves.png, classes.png and filters.png.

[1] A. Krizhevsky, I. Sutskever, G. Hinton: "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
import plots
from matplotlib.figure import Figure
from numpy.typing import NDArray

from npconv import datasets, nn
from npconv.optimizers import Adam

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

Array = NDArray[Any]
PAPER_PARAMETERS = 60_965_224  # of the published shapes
BATCH_SIZE = 64


def main() -> None:
    args = common.parser(__doc__, epochs=5, output="alexnet").parse_args()
    output = common.start(args)
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_cifar10, args, quick=(2000, 500))
    x_train, x_test = (x_train - 0.5) / 0.5, (x_test - 0.5) / 0.5  # from 0..1 to -1..1
    rng = np.random.default_rng(args.seed)

    print("\nThe network of the paper")
    model = published_alexnet(rng)
    model.summary((3, 227, 227))
    published = run_once(model, batch=1 if args.quick else 8, rng=rng)

    print("\nA small one, for CIFAR-10")
    model = small_alexnet(rng)
    model.summary((3, 32, 32))
    start = time.perf_counter()
    history: dict[str, Any] = model.fit(
        x_train, t_train, epochs=args.epochs, batch_size=BATCH_SIZE, optimizer=Adam(0.001),
        validation_data=(x_test, t_test), rng=rng,
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / args.epochs
    right = model.predict(x_test).argmax(axis=1) == t_test
    names = plots.CLASS_NAMES["cifar10"]
    by_class = {name: float(np.mean(right[t_test == label])) for label, name in enumerate(names)}
    for name, accuracy in by_class.items():
        print(f"accuracy of {name + ':':10} {accuracy:.1%}")
    print(f"test accuracy {np.mean(right):.4f}, {seconds:.1f} s per epoch")

    model.save_params(output / "weights.npz")
    history |= {"seed": args.seed, "seconds_per_epoch": seconds, "accuracy_by_class": by_class, "published": published}
    common.save_json(history, output / "history.json")
    common.save_figure(curves(history), output / "curves.png")
    common.save_figure(classes(by_class, float(np.mean(right))), output / "classes.png")
    common.save_figure(filters(model.parameters()["conv1.weight"]), output / "filters.png")
    print(f"weights, history and pictures are in {output}")


def published_alexnet(rng: np.random.Generator) -> nn.Sequential:
    """The network of the paper, for images (3, 227, 227) of 1000 classes.

    The paper says 224, but only 227 gives the 55x55 pixels behind its first layer.
    """
    first = nn.Conv2d(3, 96, 11, stride=4, rng=rng)
    return alexnet(first, channels=(256, 384, 384, 256), pixels=6 * 6, hidden=4096, classes=1000, rng=rng)


def small_alexnet(rng: np.random.Generator) -> nn.Sequential:
    """The same for images (3, 32, 32) of 10 classes: a smaller first filter, fewer channels, fewer neurons."""
    first = nn.Conv2d(3, 32, 5, padding=2, rng=rng)
    return alexnet(first, channels=(64, 96, 96, 64), pixels=3 * 3, hidden=256, classes=10, rng=rng)


def alexnet(
    first: nn.Conv2d, channels: tuple[int, int, int, int], pixels: int, hidden: int, classes: int, rng: Any
) -> nn.Sequential:
    """AlexNet behind any first layer; `channels` are those of conv2 to conv5, `pixels` what the last pooling leaves."""
    c1, (c2, c3, c4, c5) = first.out_channels, channels
    return nn.Sequential({
        "conv1": first,
        "relu1": nn.ReLU(),
        "norm1": response_norm(),
        "pool1": nn.MaxPool2d(3, stride=2),  # windows overlap by one pixel
        "conv2": nn.Conv2d(c1, c2, 5, padding=2, groups=2, rng=rng),
        "relu2": nn.ReLU(),
        "norm2": response_norm(),
        "pool2": nn.MaxPool2d(3, stride=2),
        "conv3": nn.Conv2d(c2, c3, 3, padding=1, rng=rng),  # the only one behind conv1 that sees all channels
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(c3, c4, 3, padding=1, groups=2, rng=rng),
        "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(c4, c5, 3, padding=1, groups=2, rng=rng),
        "relu5": nn.ReLU(),
        "pool5": nn.MaxPool2d(3, stride=2),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(c5 * pixels, hidden, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5, rng=rng),
        "fc7": nn.Linear(hidden, hidden, rng=rng),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(0.5, rng=rng),
        "fc8": nn.Linear(hidden, classes, rng=rng),
    })  # fmt: skip


def response_norm() -> nn.LocalResponseNorm:
    """Local response normalization with the paper's numbers: size 5, alpha 0.0001, beta 0.75, k 2.

    npconv and PyTorch divide alpha by the size, the paper does not: so theirs is 5 times the paper's.
    """
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)


def run_once(model: nn.Sequential, batch: int, rng: np.random.Generator) -> dict[str, Any]:
    """Take crops of a photograph forward and backward through the published network; return time and memory."""
    picture = common.photograph()
    top, left = (rng.integers(0, size - 227, endpoint=True, size=batch) for size in picture.shape[1:])
    x = np.stack([picture[:, t : t + 227, c : c + 227] for t, c in zip(top, left, strict=True)])
    labels = rng.integers(0, 1000, size=batch)  # any will do: nothing is learned
    loss = nn.CrossEntropyLoss()

    start = time.perf_counter()
    scores = model(x)
    middle = time.perf_counter()
    value = loss(scores, labels)
    model.backward(loss.backward())
    end = time.perf_counter()

    parameters = sum(array.size for array in model.parameters().values())
    figures = {
        "parameters": parameters,
        "batch": batch,
        "loss": float(value),
        "forward_ms": round(1000 * (middle - start), 1),
        "backward_ms": round(1000 * (end - middle), 1),
        "peak_memory_mb": peak_memory(),
    }
    print(f"{parameters:,} parameters, as published: {parameters == PAPER_PARAMETERS}")
    print(f"scores {scores.shape}, loss {value:.3f} (guessing among 1,000 classes costs {np.log(1000):.3f})")
    print(f"{batch} images: forward {figures['forward_ms']:.0f} ms, backward {figures['backward_ms']:.0f} ms")
    if figures["peak_memory_mb"]:
        print(f"peak memory of this program: {figures['peak_memory_mb']:,} MB")
    return figures


def peak_memory() -> int | None:
    """Return the most memory that this program has had so far, in MB; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)  # macOS: bytes, Linux: KiB


def curves(history: dict[str, Any]) -> Figure:
    """Loss and accuracy of the small network, epoch by epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    epochs = range(1, len(history["loss"]) + 1)
    for axes, kind in ((left, "loss"), (right, "accuracy")):
        axes.plot(epochs, history[kind], "o--", color="tab:gray", label="training images (with dropout)")
        axes.plot(epochs, history[f"val_{kind}"], "o-", color="tab:blue", label="test images")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set(title="Loss of the small AlexNet (lower is better)", ylabel="mean cross entropy")
    right.set(title="Accuracy (higher is better)", ylabel="share of images that are right")
    return figure


def classes(by_class: dict[str, float], accuracy: float) -> Figure:
    """The accuracy of each class."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    bars = axes.barh(list(by_class), list(by_class.values()), color="tab:blue")
    axes.bar_label(bars, fmt="{:.0%}", padding=3)
    axes.axvline(0.1, color="gray", linestyle=":", label="guessing")
    axes.axvline(accuracy, color="tab:orange", linestyle="--", label=f"all classes: {accuracy:.1%}")
    axes.set(title="Accuracy on test images of each class", xlabel="share of images that are right", xlim=(0, 1))
    axes.invert_yaxis()  # the first class on top
    axes.legend(loc="lower right")
    return figure


def filters(weights: Array) -> Figure:
    """What the first layer of the small network looks for: colours and edges, as that of the published one."""
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(f"The {len(weights)} filters of conv1 after training (grey is zero)")
    limit = float(np.abs(weights).max())
    for axes, weight in zip(plots.grid(figure, len(weights), columns=8), weights, strict=True):
        plots.show(axes, weight, limit)
    return figure


if __name__ == "__main__":
    main()
