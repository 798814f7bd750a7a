"""Small data sets in the files of the real ones, made here, and the check that they were read."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NOBODY = "http://127.0.0.1:9/"  # a port where nothing listens
BATCH_NAMES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    header = [0x0800 + array.ndim if magic is None else magic, *array.shape]
    return np.array(header, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def mnist_arrays(train: int = 7, test: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, 256, (train, 28, 28)),
        np.arange(train) % 10,
        rng.integers(0, 256, (test, 28, 28)),
        9 - np.arange(test) % 10,
    ]


def write_mnist(folder: Path, *, suffix: str = "", dotted: bool = False, arrays=None) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays or mnist_arrays()
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        name = name.replace("-idx", ".idx") if dotted else name
        data = idx_bytes(array)
        (folder / (name + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return arrays


def cifar_batches() -> list[np.ndarray]:
    records = np.random.default_rng(2).integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    return list(records)


def write_cifar(folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    batches = cifar_batches()
    for name, batch in zip(BATCH_NAMES, batches, strict=True):
        batch.tofile(folder / name)
    return batches


def tar_bytes(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def cifar_tar(batches: list[np.ndarray], prefix: str = "cifar-10-batches-bin/") -> bytes:
    named = zip(BATCH_NAMES, batches, strict=True)
    return tar_bytes({prefix + "readme.html": b"hello"} | {prefix + name: b.tobytes() for name, b in named})


def assert_mnist(splits, arrays) -> None:
    (x_train, t_train), (x_test, t_test) = splits
    np.testing.assert_array_equal(x_train[:, 0], arrays[0])
    np.testing.assert_array_equal(t_train, arrays[1])
    np.testing.assert_array_equal(x_test[:, 0], arrays[2])
    np.testing.assert_array_equal(t_test, arrays[3])


def assert_cifar(splits, batches) -> None:
    train = np.concatenate(batches[:5])
    for (x, t), records in zip(splits, (train, batches[5]), strict=True):
        np.testing.assert_array_equal(x, records[:, 1:].reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(t, records[:, 0])
