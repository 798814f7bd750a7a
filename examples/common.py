"""What the example scripts share: their options, their data, a progress bar, and files that are written whole.

    parser = common.parser(__doc__, epochs=10, output="lenet")
    args = parser.parse_args()
    output = common.start(args)  # a folder
    (x_train, t_train), (x_test, t_test) = common.load(datasets.load_mnist, args, quick=(5000, 1000))

It is no part of npconv: nothing here has to do with convolution.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

import npconv
from npconv._state import write_file, write_npz

try:
    import matplotlib
    from tqdm import tqdm  # type: ignore[import-untyped]
except ImportError as error:
    sys.exit(f'{error}: the examples draw with matplotlib and tqdm: pip install "npconv[examples]"')

matplotlib.use("Agg")  # draw into files: there may be no screen
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Split = tuple[NDArray[Any], NDArray[Any]]  # images and labels
T = TypeVar("T")


def parser(
    description: str | None, epochs: int, output: str, *, seed: int = 1, quick_epochs: int = 1
) -> argparse.ArgumentParser:
    """Return a parser of the options that all scripts have; a script may add its own.

    `epochs` is the default of --epochs, `quick_epochs` that with --quick; results go into runs/`output`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, help=f"passes over the training images (default: {epochs})")
    parser.add_argument("--seed", type=not_negative, default=seed, help=f"of all random numbers (default: {seed})")
    parser.add_argument("--threads", type=positive, help="threads to compute with (default: all cores)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs") / output, help=f"folder of the results (default: runs/{output})"
    )
    parser.add_argument("--data", type=Path, help="folder of the data set (default: search, then download)")
    parser.add_argument("--quick", action="store_true", help="a first impression on less data, under a minute")
    parser.set_defaults(quick_epochs=quick_epochs, full_epochs=epochs)
    return parser


def positive(text: str) -> int:
    """Convert an option to an integer above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def not_negative(text: str) -> int:
    """Convert an option to an integer of zero or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def start(args: argparse.Namespace) -> Path:
    """Settle the number of epochs and of threads, and return the output folder, which exists then."""
    if args.epochs is None:
        args.epochs = args.quick_epochs if args.quick else args.full_epochs
    if args.threads:
        npconv.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs} epochs"
    print(f"{epochs}, seed {args.seed}, {npconv.get_num_threads()} threads")
    return Path(args.output)


def load(
    loader: Callable[..., tuple[Split, Split]],
    args: argparse.Namespace,
    *,
    quick: tuple[int, int],
    **options: Any,
) -> tuple[Split, Split]:
    """Return (x_train, t_train), (x_test, t_test) of a loader of `npconv.datasets`, to which `options` go.

    With --quick there are only the first `quick` training and test images.  Where the data set is missing
    or damaged, the script ends with the loader's message, which says how to get it.
    """
    try:
        (x_train, t_train), (x_test, t_test) = loader(args.data, **options)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if args.quick:
        train, test = quick
        print(f"--quick: only the first {train:,} training and {test:,} test images")
        x_train, t_train, x_test, t_test = x_train[:train], t_train[:train], x_test[:test], t_test[:test]
    return (x_train, t_train), (x_test, t_test)


def photograph() -> NDArray[Any]:
    """Return a photograph, float32 of 0..1, (3, 300, 256): Grace Hopper in 1984, as it comes with matplotlib."""
    pixels: NDArray[np.uint8] = plt.imread(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))
    height, width = (size // 2 for size in pixels.shape[:2])
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    smaller = blocks.mean(axis=(1, 3), dtype=np.float32) / 255  # of 2x2 pixels one
    return np.ascontiguousarray(smaller.transpose(2, 0, 1))


def progress(items: Iterable[T], label: str) -> Iterable[T]:
    """Return the items again, with a bar on the terminal while they are worked through."""
    return cast("Iterable[T]", tqdm(items, desc=label, leave=False, disable=None))  # None: off in pipes and files


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture as PNG and close the figure."""
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=110))
    plt.close(figure)


def save_json(data: Any, path: Path) -> None:
    """Write dicts, lists, numbers and strings as JSON."""
    write_file(path, lambda file: file.write(f"{json.dumps(data, indent=1)}\n".encode()))


def save_weights(weights: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write the arrays of a `state_dict` by name, to be read by ``dict(np.load(path))``."""
    write_npz(path, {name: np.asarray(array) for name, array in weights.items()})
