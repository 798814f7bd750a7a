"""Convolution explained with filters written by hand, on a photograph.

    python examples/filters_by_hand.py      # a few seconds; no data set is needed

A filter is a small matrix.  It is laid on the picture, the numbers that meet are multiplied, and their sum is one
pixel of the result.  Then the filter moves on.  That is all; what comes out depends on the numbers in the filter:
equal ones blur and take noise away, ones of both signs answer to edges.  A network finds such numbers by itself.

The output folder (runs/filters_by_hand) gets results.json and four pictures:

    one_window.png          one window of the picture, the filter, their products and the sum
    denoise.png             a noisy picture, and what mean and Gaussian filters make of it
    edges.png               filters that answer to vertical and to horizontal edges
    padding_and_stride.png  how padding and stride change the size of the result

Nothing is trained: --epochs, --data and --quick have no effect.
"""

from __future__ import annotations

from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from numpy.typing import NDArray

import npconv

Array = NDArray[Any]

VERTICAL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)  # Sobel's: right minus left
HORIZONTAL = VERTICAL.T.copy()  # below minus above
MEAN_3, MEAN_5 = np.full((3, 3), 1 / 9, np.float32), np.full((5, 5), 1 / 25, np.float32)


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, epochs=0, quick_epochs=0, output="filters_by_hand")
    args = parser.parse_args(argv)
    output = common.start(args)

    picture = common.photograph().mean(axis=0)  # grey: the mean of red, green and blue
    by_loops, result = convolve(picture, VERTICAL), apply(picture, VERTICAL)
    difference = float(np.abs(by_loops - result).max())
    print(f"two loops in Python and npconv.conv2d differ by at most {difference:.1e}")

    rng = np.random.default_rng(args.seed)
    noisy = np.clip(picture + 0.15 * rng.standard_normal(picture.shape, np.float32), 0, 1)
    inner = np.abs(result[30:-30, 30:-30])
    row, column = (int(i) + 30 for i in np.unravel_index(inner.argmax(), inner.shape))  # the strongest edge
    common.save_figure(one_window(picture, VERTICAL, row, column), output / "one_window.png")
    common.save_figure(denoise(picture, noisy), output / "denoise.png")
    common.save_figure(edges(picture), output / "edges.png")
    common.save_figure(padding_and_stride(picture[:120, 60:180]), output / "padding_and_stride.png")
    errors = {name: float(np.sqrt(np.mean((blurred - picture) ** 2))) for name, blurred in blurs(noisy).items()}
    for name, error in errors.items():
        print(f"{name}: {error:.3f} from the clean picture (root mean square)")
    results = {
        "largest_difference_to_loops": difference,
        "window_sum": float(result[row, column]),
        "noise_left": errors,
    }
    common.save_json(results, output / "results.json")
    print(f"pictures are in {output}")


def convolve(picture: Array, weights: Array) -> Array:
    """Convolve as it is defined, pixel by pixel: what `npconv.conv2d` does, hundreds of times faster."""
    size = len(weights)
    height, width = (n - size + 1 for n in picture.shape)
    result = np.empty((height, width), picture.dtype)
    for row in range(height):
        for column in range(width):
            window = picture[row : row + size, column : column + size]
            result[row, column] = (window * weights).sum()
    return result


def apply(picture: Array, weights: Array, **options: Any) -> Array:
    """Convolve one grey picture (H, W) with one filter: `npconv.conv2d` takes many of both."""
    result: Array = npconv.conv2d(picture[np.newaxis], weights[np.newaxis, np.newaxis], **options)[0]
    return result


def gaussian(size: int, sigma: float) -> Array:
    """A filter whose numbers fall off from the middle as a bell does; their sum is 1, so brightness stays."""
    distance = np.arange(size) - size // 2
    bell = np.exp(-(distance**2) / (2 * sigma**2))
    weights = np.outer(bell, bell)
    normalised: Array = (weights / weights.sum()).astype(np.float32)
    return normalised


def blurs(noisy: Array) -> dict[str, Array]:
    """What filters that blur make of a noisy picture; its edge is repeated around it, so that its size stays."""
    filters = {"3x3 mean": MEAN_3, "5x5 mean": MEAN_5, "5x5 Gaussian": gaussian(5, 1.0)}
    options = {"padding": "same", "padding_mode": "replicate"}
    return {"noisy": noisy, **{name: apply(noisy, weights, **options) for name, weights in filters.items()}}


# ---- pictures ----


def one_window(picture: Array, weights: Array, row: int, column: int) -> Figure:
    """One window of the picture, the filter, their products and the sum."""
    size = len(weights)
    window = picture[row : row + size, column : column + size]
    products = window * weights
    figure, axes = plt.subplots(1, 4, figsize=(14, 4.4), width_ratios=[4, 3, 3, 3], layout="constrained")
    figure.suptitle("One pixel of a convolution: multiply a window of the picture by the filter, and add up")
    left, top, span = column - 20, row - 20, 43
    axes[0].imshow(picture[top : top + span, left : left + span], cmap="gray", vmin=0, vmax=1)
    axes[0].add_patch(Rectangle((19.5, 19.5), size, size, fill=False, edgecolor="tab:red", lw=2))
    axes[0].set(xticks=[], yticks=[], title="a part of the picture,\nand one window of 3x3 pixels")
    numbers(axes[1], window, "the window:\nbrightness from 0 to 1", "gray", 0, 1)
    numbers(axes[2], weights, "times the filter", "RdBu_r", -2, 2)
    numbers(axes[3], products, f"are the products: their sum,\n{products.sum():+.2f}, is one pixel", "RdBu_r", -2, 2)
    for x, y in ((19.5, 19.5), (19.5 + size, 19.5 + size)):  # from the window to its numbers
        corner = (-0.5, -0.5) if y == 19.5 else (-0.5, size - 0.5)
        ends = {"xyA": (x, y), "coordsA": axes[0].transData, "xyB": corner, "coordsB": axes[1].transData}
        figure.add_artist(ConnectionPatch(**ends, color="tab:red", lw=1))
    return figure


def numbers(axes: Any, matrix: Array, title: str, colours: str, low: float, high: float) -> None:
    """Draw a small matrix as coloured squares with its numbers."""
    axes.imshow(matrix, cmap=colours, vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(matrix):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=14, backgroundcolor="white")
    axes.set(xticks=[], yticks=[], title=title)


def denoise(picture: Array, noisy: Array) -> Figure:
    """A noisy picture, and what filters of equal signs make of it."""
    results = blurs(noisy)
    figure, axes = plt.subplots(1, len(results), figsize=(14, 4.9), layout="constrained")
    figure.suptitle(
        "Filters whose numbers add up to 1 blur, and take noise away: each pixel becomes a mean of its neighbours"
    )
    for a, (name, result) in zip(axes, results.items(), strict=True):
        error = np.sqrt(np.mean((result - picture) ** 2))
        show_grey(a, result, f"{name}\n{error:.3f} from the clean picture", 0, 1)
    return figure


def edges(picture: Array) -> Figure:
    """What filters of both signs answer to."""
    results = {"vertical edges": apply(picture, VERTICAL), "horizontal edges": apply(picture, HORIZONTAL)}
    figure, axes = plt.subplots(2, 3, figsize=(11, 8.4), width_ratios=[4, 2, 4], layout="constrained")
    figure.suptitle("Filters whose numbers add up to 0 answer to edges: where the picture is even, the result is zero")
    for (picture_axes, filter_axes, result_axes), (name, result), weights in zip(
        axes, results.items(), (VERTICAL, HORIZONTAL), strict=True
    ):
        show_grey(picture_axes, picture, "the picture", 0, 1)
        numbers(filter_axes, weights, f"a filter for\n{name}", "RdBu_r", -2, 2)
        strong = float(np.quantile(np.abs(result), 0.99))  # a few extremes shall not make the rest pale
        result_axes.imshow(result, cmap="RdBu_r", vmin=-strong, vmax=strong)
        result_axes.set(xticks=[], yticks=[], title=f"{name}: red from dark to bright, blue back")
    return figure


def padding_and_stride(picture: Array) -> Figure:
    """The same filter with other paddings and strides, drawn pixel for pixel."""
    weights = gaussian(9, 2.0)
    cases: dict[str, dict[str, Any]] = {
        "padding 0, stride 1": {},
        "padding 4 (zeros), stride 1": {"padding": 4},
        "padding 4 (reflected), stride 1": {"padding": 4, "padding_mode": "reflect"},
        "padding 4 (zeros), stride 2": {"padding": 4, "stride": 2},
        "padding 0, stride 4": {"stride": 4},
    }
    size = len(picture)
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.8), layout="constrained")
    figure.suptitle(
        "A 9x9 filter on the same picture. Size of the result: (size + 2 * padding - 9) // stride + 1\n"
        "Padding lets the filter reach the edge; zeros are black, and darken it. A stride skips pixels."
    )
    show_grey(axes[0, 0], picture, f"the picture, {size}x{size}", 0, 1)
    for a, (name, options) in zip(axes.flat[1:], cases.items(), strict=True):
        result = apply(picture, weights, **options)
        show_grey(a, result, f"{name}\n{result.shape[0]}x{result.shape[1]}", 0, 1)
    for a in axes.flat:  # one scale for all: a smaller result is a smaller picture
        a.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    return figure


def show_grey(axes: Any, image: Array, title: str, low: float, high: float) -> None:
    axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[], title=title)


if __name__ == "__main__":
    main()
