"""What a convolution and a pooling make of pictures: feature maps, to look at in TensorBoard and as PNG.

    python examples/feature_maps.py
    tensorboard --logdir runs/feature_maps          # then open the address that it prints

First a matrix of 5x5 numbers is pooled in windows of 3x3, with ceil_mode on and off, and put back in its place by
max unpooling.  Then pictures of CIFAR-10 go through a convolution of 3 to 6 channels with 3x3 filters, and its 6
feature maps through a 3x3 max pooling.  The filters are random numbers: nothing is trained, --epochs has no effect.

The output folder (runs/feature_maps) gets results.json, matrix.png, feature_maps.png, batch.png, and a file of
events for TensorBoard with the input, convolution and pooling images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
import plots
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

import npconv
from npconv import datasets, nn

try:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
except ImportError as error:
    sys.exit(f'{error}: this example writes for TensorBoard: pip install "npconv[examples]"')

Array = NDArray[Any]

MATRIX = np.array(
    [
        [1, 2, 0, 3, 1],
        [0, 1, 2, 3, 1],
        [1, 2, 1, 0, 0],
        [5, 2, 3, 1, 1],
        [2, 1, 0, 1, 1],
    ],
    np.float32,
)


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, epochs=0, quick_epochs=0, output="feature_maps")
    args = parser.parse_args(argv)
    output = common.start(args)

    results = pool_matrix(output)

    _, (x, labels) = common.load(datasets.load_cifar10, args, quick=(1, 64))
    rng = np.random.default_rng(args.seed)
    convolution, pooling = nn.Conv2d(3, 6, 3, rng=rng), nn.MaxPool2d(3, return_indices=True, ceil_mode=True)
    batches = [x[i : i + 64] for i in range(0, min(len(x), 640), 64)]
    write_events(output, batches, convolution, pooling)

    maps = convolution(x[:8])
    pooled, indices = pooling(maps)
    unpooled = npconv.max_unpool2d(pooled, indices, 3, output_size=maps.shape[2:])
    print(
        f"\npictures {x[:8].shape} -> convolution {maps.shape} -> pooling {pooled.shape} -> unpooling {unpooled.shape}"
    )
    name = plots.CLASS_NAMES["cifar10"][labels[0]]
    figure = draw_stages(x[0], name, convolution.weight, maps[0], pooled[0], unpooled[0])
    common.save_figure(figure, output / "feature_maps.png")
    common.save_figure(draw_batch(x[:8], maps, pooled), output / "batch.png")
    results["shapes"] = {"input": x[:8].shape, "convolution": maps.shape, "pooling": pooled.shape}
    common.save_json(results, output / "results.json")
    print(f"pictures and events for TensorBoard are in {output}")


# ---- a matrix ----


def pool_matrix(output: Path) -> dict[str, Any]:
    """Pool a matrix both ways, and put the numbers back; print and draw it."""
    x = MATRIX[np.newaxis, np.newaxis]  # operators take images: one of one channel
    whole, indices = npconv.max_pool2d(x, 3, ceil_mode=True, return_indices=True)
    inside = npconv.max_pool2d(x, 3, ceil_mode=False)
    unpooled = npconv.max_unpool2d(whole, indices, 3, output_size=MATRIX.shape)
    for title, array in {
        "the matrix": x,
        "3x3 max pooling, ceil_mode=True: windows may reach over the edge": whole,
        "where each maximum was (row * 5 + column)": indices,
        "3x3 max pooling, ceil_mode=False: only whole windows": inside,
        "max unpooling of the first: each number where it was, zeros elsewhere": unpooled,
    }.items():
        print(f"\n{title}\n{array[0, 0].astype(int)}")
    common.save_figure(draw_matrix(whole[0, 0], inside[0, 0], unpooled[0, 0]), output / "matrix.png")
    return {
        "ceil_mode": whole[0, 0].tolist(),
        "floor_mode": inside[0, 0].tolist(),
        "indices": indices[0, 0].tolist(),
        "unpooled": unpooled[0, 0].tolist(),
    }


def draw_matrix(whole: Array, inside: Array, unpooled: Array) -> Figure:
    """The matrix with its windows, and what the poolings and the unpooling make of it."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.4), layout="constrained")
    figure.suptitle("Max pooling keeps the largest number of each 3x3 window; the next window starts 3 further")
    colours = [["tab:red", "tab:blue"], ["tab:green", "tab:orange"]]
    steps: list[tuple[Any, Array, str]] = [
        (axes[0, 0], MATRIX, "ceil_mode=True:\nwindows may reach over the edge"),
        (axes[0, 1], whole, "the largest of each window:\n2x2 numbers"),
        (axes[0, 2], unpooled, "max unpooling: each number\nback in its place, zeros elsewhere"),
        (axes[1, 0], MATRIX, "ceil_mode=False:\nonly windows that fit"),
        (axes[1, 1], inside, "one window fits:\n1x1 number"),
    ]
    for a, numbers, title in steps:
        show_numbers(a, numbers)
        a.set_title(title)
    for row in range(2):
        for column in range(2):
            colour = colours[row][column]
            outline(axes[0, 0], 3 * row, 3 * column, 3, colour)
            outline(axes[0, 1], row, column, 1, colour)
            where = np.argwhere(unpooled[3 * row : 3 * row + 3, 3 * column : 3 * column + 3])
            outline(axes[0, 2], 3 * row + where[0, 0], 3 * column + where[0, 1], 1, colour)
    outline(axes[1, 0], 0, 0, 3, colours[0][0])
    outline(axes[1, 1], 0, 0, 1, colours[0][0])
    axes[1, 2].set_visible(False)
    return figure


def show_numbers(axes: Any, numbers: Array) -> None:
    """Draw a matrix as coloured squares with its numbers; all matrices have squares of one size."""
    axes.imshow(numbers, cmap="Blues", vmin=0, vmax=9)
    for (row, column), number in np.ndenumerate(numbers):
        axes.text(column, row, f"{number:g}", ha="center", va="center", fontsize=13)
    axes.set(xlim=(-0.7, 5.7), ylim=(5.7, -0.7), xticks=[], yticks=[])
    axes.axis("off")


def outline(axes: Any, row: int, column: int, size: int, colour: str) -> None:
    """Draw a frame around `size` x `size` squares."""
    inset = 0.46
    corner = (column - inset, row - inset)
    axes.add_patch(Rectangle(corner, size - 1 + 2 * inset, size - 1 + 2 * inset, fill=False, edgecolor=colour, lw=3))


# ---- pictures ----


def write_events(output: Path, batches: list[Array], convolution: nn.Conv2d, pooling: nn.MaxPool2d) -> None:
    """Write input, convolution and pooling images of each batch as one step for TensorBoard."""
    for old in output.glob("events.out.tfevents.*"):  # else TensorBoard shows those of earlier runs, too
        old.unlink()
    with SummaryWriter(str(output)) as writer:
        for step, x in enumerate(common.progress(batches, "TensorBoard")):
            maps = convolution(x)
            pooled, _ = pooling(maps)
            writer.add_images("input", x, step)
            writer.add_images("convolution", side_by_side(maps), step)
            writer.add_images("pooling", side_by_side(pooled), step)


def side_by_side(maps: Array) -> Array:
    """Return the channels of each image as one wide grey image of 0..1: (N, C, H, W) becomes (N, 1, H, C*W)."""
    low, high = maps.min(axis=(0, 2, 3), keepdims=True), maps.max(axis=(0, 2, 3), keepdims=True)
    grey = (maps - low) / (high - low)
    n, c, h, w = maps.shape
    wide: Array = grey.transpose(0, 2, 1, 3).reshape(n, 1, h, c * w)
    return wide


def draw_stages(x: Array, name: str, filters: Array, maps: Array, pooled: Array, unpooled: Array) -> Figure:
    """One picture, the filters, and what every step makes of it."""
    count = len(filters)
    figure, axes = plt.subplots(4, count + 1, figsize=(13, 8.2), layout="constrained")
    figure.suptitle(
        f"One picture ({name}) through a convolution of 3 to {count} channels, 3x3 max pooling and unpooling"
    )
    for a in axes[:, 0]:
        a.axis("off")
    plots.show(axes[1, 0], x)
    axes[1, 0].axis("on")
    axes[1, 0].set_title(f"input\n{x.shape[1]}x{x.shape[2]}, 3 colours")
    words = [
        "filters: random,\n3x3 numbers for\neach of 3 colours",
        None,
        "pooling: the largest\nof each 3x3 window",
        "unpooling: each value\nback where it was,\nelsewhere zero",
    ]
    for a, text in zip(axes[:, 0], words, strict=True):
        if text:
            a.text(0.5, 0.5, text, ha="center", va="center", transform=a.transAxes)
    limit = float(np.abs(filters).max())
    for k in range(count):
        plots.show(axes[0, k + 1], filters[k], limit)
        axes[0, k + 1].set_title(f"filter {k}")
        scale = {"cmap": "gray", "vmin": maps[k].min(), "vmax": maps[k].max()}
        for row, images in enumerate((maps, pooled, unpooled), start=1):
            axes[row, k + 1].imshow(images[k], **scale)
            axes[row, k + 1].set(xticks=[], yticks=[], title=f"{images.shape[1]}x{images.shape[2]}")
    return figure


def draw_batch(x: Array, maps: Array, pooled: Array) -> Figure:
    """Several pictures: what TensorBoard shows, side by side."""
    figure, axes = plt.subplots(len(x), 3, figsize=(11, 8), width_ratios=[1, 6, 6], layout="constrained", squeeze=False)
    figure.suptitle("Every filter answers to the same thing in every picture")
    titles = "input", f"convolution: 6 maps of {maps.shape[2]}x{maps.shape[3]}", "the same, pooled"
    titles = (*titles[:2], f"max pooling: 6 maps of {pooled.shape[2]}x{pooled.shape[3]}")
    for a, title in zip(axes[0], titles, strict=True):
        a.set_title(title)
    for row, image, *wide in zip(axes, x, side_by_side(maps), side_by_side(pooled), strict=True):
        plots.show(row[0], image)
        for a, picture in zip(row[1:], wide, strict=True):
            a.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            a.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    main()
