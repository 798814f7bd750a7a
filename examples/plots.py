"""The pictures that train_mnist.py leaves: what was learned, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import npconv
from npconv.layers import Pooling, Relu, softmax

Array = NDArray[Any]

CLASS_NAMES = {
    "fashion": ["T-shirt", "trousers", "pullover", "dress", "coat",
                "sandal", "shirt", "sneaker", "bag", "ankle boot"],
    "cifar10": ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}  # fmt: skip
DIGITS = [str(i) for i in range(10)]


def draw_all(
    folder: Path,
    network: Any,
    epochs: list[dict[str, Any]],
    filters_before: Array,
    x: Array,
    t: Array,
    data: str,
) -> None:
    """Draw every picture: `epochs` is the history, `x` and `t` are the test images and labels."""
    names = CLASS_NAMES.get(data, DIGITS)
    scores = np.concatenate([network.predict(x[i : i + 100]) for i in range(0, len(x), 100)])
    figures = {
        "curves": curves(epochs, dropout="Dropout1" in network.layers),
        "filters": filters(filters_before, network.params["W1"]),
        "filters_applied": filters_applied(network.params["W1"], network.params["b1"]),
        "feature_maps": feature_maps(network, x[0], names[t[0]]),
        "confusion": confusion(scores.argmax(axis=1), t, names),
        "mistakes": mistakes(x, scores, t, names),
    }
    for name, figure in figures.items():
        common.save_figure(figure, folder / f"{name}.png")


def curves(epochs: list[dict[str, Any]], dropout: bool) -> Figure:
    """Loss and accuracy of each epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    number = [e["epoch"] for e in epochs]
    marker = "o" if len(epochs) <= 30 else ""
    left.plot(number, [e["loss"] for e in epochs], "-", marker=marker, color="tab:red")
    left.set(title="Loss on training images (lower is better)", xlabel="epoch", ylabel="mean cross entropy")
    left.set_ylim(bottom=0)
    train_accuracy, test_accuracy = ([e[f"{kind}_accuracy"] for e in epochs] for kind in ("train", "test"))
    # With dropout the network is tested whole, but trained with half of its neurons switched off.
    label = "training images (with dropout)" if dropout else "training images"
    right.plot(number, train_accuracy, "--", marker=marker, color="tab:gray", label=label)
    label = f"test images (at the end {test_accuracy[-1]:.2%})"
    right.plot(number, test_accuracy, "-", marker=marker, color="tab:blue", label=label)
    right.set(title="Accuracy (higher is better)", xlabel="epoch", ylabel="share of images that are right")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def filters(before: Array, after: Array) -> Figure:
    """The filters of the first layer before and after training, in one scale of colours."""
    figure = plt.figure(figsize=(11, 5.4), layout="constrained")
    figure.suptitle("Filters of the first layer: what each of them looks for in the image")
    limit = float(max(np.abs(before).max(), np.abs(after).max()))
    parts: Any = figure.subfigures(1, 3, width_ratios=[10, 10, 2])
    left, right, scale = parts
    for part, weights, when in ((left, before, "Before"), (right, after, "After")):
        part.suptitle(f"{when} training: weights {weights.min():+.2f} to {weights.max():+.2f}", fontsize=11)
        for axes, weight in zip(grid(part, len(weights)), weights, strict=True):
            image = show(axes, weight, limit)
    if before.shape[1] == 1:  # colours speak for themselves
        bar = figure.colorbar(image, cax=scale.add_axes((0.1, 0.15, 0.15, 0.7)))
        bar.set_label("weight (same scale on both sides)")
    return figure


def filters_applied(weights: Array, bias: Array) -> Figure:
    """Two learned filters (K, C, FH, FW) applied to a photograph: what the first layer passes on."""
    picture = common.photograph()
    if weights.shape[1] == 1:
        picture = picture.mean(axis=0, keepdims=True)
    responses = npconv.conv2d(picture.astype(weights.dtype), weights, bias)
    height, width = weights.shape[2:]
    rows = {
        "vertical": most_like(np.linspace(-1, 1, width)[np.newaxis, :], weights),  # from dark to bright
        "horizontal": most_like(np.linspace(-1, 1, height)[:, np.newaxis], weights),
    }
    limit = float(np.abs(weights).max())

    figure = plt.figure(figsize=(11, 8.6), layout="constrained")
    figure.suptitle("Two learned filters applied to a picture: each answers to edges of its own direction")
    axes = figure.subplots(2, 3, width_ratios=[10, 6, 10])
    for (direction, k), (left, middle, right) in zip(rows.items(), axes, strict=True):
        show(left, picture if len(picture) == 3 else 1 - picture)  # `show` draws single channels as ink on paper
        left.set_title("the picture")
        show(middle, weights[k], limit)
        middle.set_title(f"filter {k}, of all the one most like\na detector of {direction} edges")
        strong = float(np.quantile(np.abs(responses[k]), 0.995))  # a few extremes shall not make the rest pale
        image = right.imshow(responses[k], cmap="RdBu_r", vmin=-strong, vmax=strong)
        right.set(xticks=[], yticks=[], title="its response: red is above zero,\nblue below (ReLU makes it zero)")
        figure.colorbar(image, ax=right, shrink=0.8)
    return figure


def most_like(edge: Array, weights: Array) -> int:
    """Return which filter of (K, C, FH, FW) lies closest to an edge (FH, 1) or (1, FW), either side bright."""
    shared = np.abs((weights * edge).sum(axis=(1, 2, 3)))
    return int(np.argmax(shared / np.sqrt((weights**2).sum(axis=(1, 2, 3))).clip(1e-12)))


def feature_maps(network: Any, x: Array, name: str) -> Figure:
    """What the first layer and the last pooling make of one image."""
    maps = {}
    y = x[np.newaxis].astype(network.dtype)
    for layer_name, layer in network.layers.items():
        y = layer.forward(y)
        if isinstance(layer, (Relu, Pooling)) and y.ndim == 4:
            maps[layer_name] = y[0]
    stages = {"Conv1 and Relu1": maps["Relu1"], f"last pooling, {list(maps)[-1]}": list(maps.values())[-1]}

    figure = plt.figure(figsize=(13, 5), layout="constrained")
    figure.suptitle(f"One test image ({name}) inside the network: bright is where a filter found its pattern")
    parts: Any = figure.subfigures(1, 3, width_ratios=[1, 2, 2])
    axes = parts[0].subplots()
    show(axes, x)
    parts[0].suptitle(f"The image, {x.shape[1]}x{x.shape[2]}", fontsize=11)
    for part, (stage, images) in zip(parts[1:], stages.items(), strict=True):
        count, height, width = images.shape
        part.suptitle(f"After {stage}: {count} maps of {height}x{width}", fontsize=11)
        for axes, image in zip(grid(part, count), images, strict=True):
            axes.imshow(image, cmap="magma", vmin=0, vmax=images.max())
    return figure


def confusion(predicted: Array, t: Array, names: list[str]) -> Figure:
    """How often each class was taken for each other."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (t, predicted), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(7.5, 6.8), layout="constrained")
    # The square root lets rare mistakes be seen beside the diagonal.
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count}", ha="center", va="center",
                      color="white" if share[row, column] > 0.3 else "black")  # fmt: skip
    wrong = int((predicted != t).sum())
    axes.set_title(f"Test images by truth and prediction: {wrong:,} of {len(t):,} are wrong")
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(names)), yticks=range(len(names)))
    turned = max(map(len, names)) > 2
    axes.set_xticklabels(names, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticklabels(names)
    return figure


def mistakes(x: Array, scores: Array, t: Array, names: list[str]) -> Figure:
    """The test images that the network got wrong, those first where it was most certain."""
    most = 40
    probability = softmax(scores)
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != t)
    wrong = wrong[np.argsort(-probability[wrong, predicted[wrong]], kind="stable")]
    figure = plt.figure(figsize=(12, 8.6), layout="constrained")
    title = f"{len(wrong):,} of {len(t):,} test images are wrong"
    if len(wrong) > most:
        title += f"; the {most} of which the network was most certain"
    figure.suptitle(title)
    for axes, i in zip(grid(figure, min(len(wrong), most), columns=8), wrong[:most], strict=True):
        show(axes, x[i])
        certain = f"{probability[i, predicted[i]]:.0%}"
        axes.set_title(f"predicted {names[predicted[i]]} ({certain})\ntrue {names[t[i]]}", fontsize=8)
    return figure


def grid(figure: Any, count: int, columns: int | None = None) -> list[Any]:
    """Return `count` axes without ticks, in a grid that is about square."""
    if count == 0:
        return []
    columns = columns or int(np.ceil(np.sqrt(count)))
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for a in axes:
        a.set(xticks=[], yticks=[])
    for a in axes[count:]:
        a.set_visible(False)
    return list(axes[:count])


def show(axes: Any, image: Array, limit: float | None = None) -> Any:
    """Draw an image (C, H, W) of 0..1, or with `limit` a filter of -limit..limit."""
    axes.set(xticks=[], yticks=[])
    if len(image) == 3:
        colours = image if limit is None else 0.5 + image / (2 * limit)
        return axes.imshow(colours.transpose(1, 2, 0))
    if limit is None:
        return axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
    return axes.imshow(image[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
