"""Data sets: reading files, and finding them."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    BATCH_NAMES,
    IDX_NAMES,
    assert_cifar,
    assert_mnist,
    cifar_batches,
    cifar_tar,
    idx_bytes,
    mnist_arrays,
    tar_bytes,
    write_cifar,
    write_mnist,
)

from npconv import datasets

REAL_DATA = os.environ.get("NPCONV_DATA", "")  # read before `isolated` hides it
pytestmark = pytest.mark.usefixtures("isolated")


# ---- The embedded digits ----


def test_digits_facts():
    (x_train, t_train), (x_test, t_test) = datasets.load_digits_small(normalize=False)
    assert (x_train.shape, x_test.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert (t_train.shape, t_test.shape) == ((1500,), (297,))
    assert x_train.dtype == np.uint8
    assert t_train.dtype == np.int64
    images, labels = np.concatenate([x_train, x_test]), np.concatenate([t_train, t_test])
    assert (images.min(), images.max(), images.sum(dtype=np.int64)) == (0, 16, 561718)
    # UCI's description of the set: the digits 0 to 9 in optdigits.tes
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:10].tolist() == list(range(10))
    assert images[0, 0, 1].tolist() == [0, 0, 13, 15, 10, 15, 5, 0]


def test_digits_are_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    splits = datasets.load_digits_small(normalize=False)
    np.testing.assert_array_equal(np.concatenate([x[:, 0] for x, _ in splits]), reference.images)
    np.testing.assert_array_equal(np.concatenate([t for _, t in splits]), reference.target)


def test_digits_calls_do_not_share_memory():
    (first, _), _ = datasets.load_digits_small(normalize=False)
    first[:] = 99
    (second, _), _ = datasets.load_digits_small(normalize=False)
    assert second.max() == 16


def test_digits_licence_is_beside_the_data():
    text = (Path(datasets.__file__).parent / "data" / "DIGITS_LICENSE.txt").read_text()
    assert "CC BY 4.0" in text
    assert "10.24432/C50P49" in text


# ---- The form of the result ----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", float])
def test_normalize(tmp_path, dtype):
    arrays = write_mnist(tmp_path)
    (x, t), _ = datasets.load_mnist(tmp_path, dtype=dtype)
    assert x.dtype == np.dtype(dtype)
    assert t.dtype == np.int64
    expected = arrays[0].astype(dtype) / np.asarray(255, dtype)
    np.testing.assert_array_equal(x[:, 0], expected)
    assert x.min() >= 0
    assert x.max() <= 1


def test_digits_normalize_divides_by_16():
    (raw, _), _ = datasets.load_digits_small(normalize=False)
    (x, _), _ = datasets.load_digits_small()
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x * 16, raw)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
def test_results_are_writable_and_c_contiguous(tmp_path, normalize, flatten):
    write_mnist(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar10")
    for load, pixels in ((datasets.load_mnist, (1, 28, 28)), (datasets.load_cifar10, (3, 32, 32))):
        for x, t in load(tmp_path, normalize=normalize, flatten=flatten):
            assert x.shape[1:] == ((np.prod(pixels),) if flatten else pixels)
            assert x.dtype == (np.float32 if normalize else np.uint8)
            for array in (x, t):
                assert array.flags.c_contiguous
                assert array.flags.writeable


def test_flatten_keeps_the_order_of_pixels(tmp_path):
    write_cifar(tmp_path)
    (x, _), _ = datasets.load_cifar10(tmp_path)
    (rows, _), _ = datasets.load_cifar10(tmp_path, flatten=True)
    np.testing.assert_array_equal(rows, x.reshape(len(x), -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_hot(dtype):
    (_, t), _ = datasets.load_digits_small()
    (_, rows), _ = datasets.load_digits_small(one_hot_label=True, dtype=dtype)
    assert rows.shape == (1500, 10)
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows.argmax(axis=1), t)
    np.testing.assert_array_equal(rows.sum(axis=1), 1)


@pytest.mark.parametrize("dtype", [np.uint8, "int64", bool, complex, object])
def test_dtype_must_be_floating(dtype):
    with pytest.raises(TypeError, match=f"dtype is {np.dtype(dtype)}.*floating"):
        datasets.load_digits_small(dtype=dtype)


# ---- IDX files ----


@pytest.mark.parametrize("load", [datasets.load_mnist, datasets.load_fashion_mnist])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx_plain_and_gzip_under_every_spelling(tmp_path, load, suffix, dotted):
    arrays = write_mnist(tmp_path, suffix=suffix, dotted=dotted)
    assert_mnist(load(tmp_path, normalize=False), arrays)


def test_idx_unpacked_under_its_gzip_name(tmp_path):
    arrays = write_mnist(tmp_path)
    for name in IDX_NAMES:
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert_mnist(datasets.load_mnist(tmp_path, normalize=False), arrays)


def test_idx_without_images(tmp_path):
    write_mnist(tmp_path, arrays=mnist_arrays(train=0))
    (x, t), _ = datasets.load_mnist(tmp_path, flatten=True, one_hot_label=True)
    assert (x.shape, t.shape) == ((0, 784), (0, 10))


IMAGES, LABELS = idx_bytes(np.zeros((7, 28, 28))), idx_bytes(np.arange(7))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (0, b"", "holds 0 bytes; expected: an IDX header of 16 bytes"),
        (0, IMAGES[:15], "holds 15 bytes; expected: an IDX header of 16 bytes"),
        (1, LABELS[:3], "holds 3 bytes; expected: an IDX header of 8 bytes"),
        (0, b"<!DOCTYPE html> an error page", "magic number 0x3c21444f; expected: 0x00000803"),
        (0, LABELS + bytes(8), "magic number 0x00000801; expected: 0x00000803"),
        (1, IMAGES, "magic number 0x00000803; expected: 0x00000801"),
        (0, idx_bytes(np.zeros((7, 28, 28)), magic=0x0D03), "0x00000d03; expected: 0x00000803"),
        (0, idx_bytes(np.zeros((7, 28, 27))), "images of 28x27 pixels; expected: 28x28"),
        (0, IMAGES[:-784], "6 items and 0 bytes; expected: 7 items"),
        (0, IMAGES[:-1], "6 items and 783 bytes; expected: 7 items"),
        (0, IMAGES + b"!", "7 items and 1 bytes; expected: 7 items"),
        (1, LABELS[:-1], "6 items and 0 bytes; expected: 7 items"),
        (0, IMAGES[:4] + b"\xff" * 4 + IMAGES[8:], "7 items and 0 bytes; expected: 4,294,967,295 items"),
        (1, idx_bytes(np.array([0, 1, 12, 3, 4, 10, 6])), "label 12 at position 2; expected: labels in 0..9"),
        (1, idx_bytes(np.arange(6)), "6 labels; expected: 7, one for each image"),
        (0, gzip.compress(IMAGES)[:-9], "bytes, truncated or damaged .*; expected: a whole gzip file"),
        (0, gzip.compress(IMAGES)[:12], "holds 12 bytes, truncated or damaged"),
        (0, gzip.compress(IMAGES)[:-8] + bytes(8), "truncated or damaged .*CRC"),
        (0, b"\x1f\x8b" + bytes(100), "holds 102 bytes, truncated or damaged"),
        (0, b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 50, "holds 60 bytes, truncated or damaged"),
    ],
)
def test_bad_idx_file(tmp_path, name, data, message):
    write_mnist(tmp_path)
    path = tmp_path / IDX_NAMES[name]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} holds ") as caught:
        datasets.load_mnist(tmp_path)
    assert re.search(message, str(caught.value)), caught.value


# ---- CIFAR-10 ----


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"])
def test_cifar_files(tmp_path, subfolder):
    batches = write_cifar(tmp_path / subfolder)
    assert_cifar(datasets.load_cifar10(tmp_path, normalize=False), batches)


@pytest.mark.parametrize("prefix", ["cifar-10-batches-bin/", "./cifar-10-batches-bin/", "", "/", "../../"])
def test_cifar_archive_is_read_without_unpacking(tmp_path, prefix):
    batches = cifar_batches()
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "cifar-10-binary.tar.gz").write_bytes(cifar_tar(batches, prefix))
    assert_cifar(datasets.load_cifar10(folder, normalize=False), batches)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]


def test_cifar_batches_of_unequal_length(tmp_path):
    write_cifar(tmp_path)
    np.zeros((2, 3073), np.uint8).tofile(tmp_path / "data_batch_5.bin")
    (x, _), _ = datasets.load_cifar10(tmp_path)
    assert len(x) == 4 * 4 + 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 records and 0 bytes; expected: whole records of 3,073 bytes"),
        (bytes(3072), "0 records and 3,072 bytes; expected: whole records"),
        (bytes(2 * 3073 + 5), "2 records and 5 bytes; expected: whole records"),
        (bytes(3073) + b"\x0a" + bytes(3072), "label 10 at position 1; expected: labels in 0..9"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_bad_cifar_batch(tmp_path, data, message, archived):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(data)
    if archived:
        content = tar_bytes({name: (tmp_path / name).read_bytes() for name in BATCH_NAMES})
        for name in BATCH_NAMES:
            (tmp_path / name).unlink()
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load_cifar10(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "data_batch_3.bin" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 200, 30000, -20])
def test_truncated_cifar_archive(tmp_path, keep):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(cifar_tar(cifar_batches())[:keep])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} holds .*truncated or damaged"):
        datasets.load_cifar10(tmp_path)


def test_damaged_check_sum_of_a_cifar_archive(tmp_path):
    data = bytearray(cifar_tar(cifar_batches()))
    data[-6] ^= 1  # of the eight bytes behind the last file: check sum and size
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"truncated or damaged .*CRC"):
        datasets.load_cifar10(tmp_path)


def test_cifar_archive_of_something_else(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_bytes({"cifar-10-batches-py/data_batch_1": b"x"}))
    with pytest.raises(ValueError, match=r"holds no data_batch_1\.bin, .*; expected: all of"):
        datasets.load_cifar10(tmp_path)


def test_links_in_a_cifar_archive_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in BATCH_NAMES:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    with pytest.raises(ValueError, match=r"holds no data_batch_1\.bin"):
        datasets.load_cifar10(tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz", "data_batch_1"])
def test_pickles_are_refused_with_advice(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"not even looked at")
    with pytest.raises(datasets.DatasetNotFoundError, match=r"pickles.*not loaded") as caught:
        datasets.load_cifar10(tmp_path)
    assert "cifar-10-binary.tar.gz" in str(caught.value)


# ---- Where a set is looked for ----


def mnist_marked(folder: Path, mark: int) -> None:
    """A set that tells by its first test label which copy it is."""
    arrays = mnist_arrays()
    arrays[3] = np.array([mark, 0, 0])
    write_mnist(folder, arrays=arrays)


def mark_of(splits) -> int:
    return int(splits[1][1][0])


def test_order_of_places(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "npconv" / "mnist"
    mnist_marked(cache, 1)
    assert mark_of(datasets.load_mnist()) == 1
    monkeypatch.setenv("NPCONV_DATA", str(tmp_path / "data"))
    assert mark_of(datasets.load_mnist()) == 1  # nothing there yet
    mnist_marked(tmp_path / "data" / "mnist", 2)
    assert mark_of(datasets.load_mnist()) == 2
    mnist_marked(tmp_path / "root", 3)
    assert mark_of(datasets.load_mnist(tmp_path / "root")) == 3
    assert mark_of(datasets.load_mnist(str(tmp_path / "data"))) == 2  # the parent will do


def test_incomplete_folder_is_passed_over(tmp_path, monkeypatch):
    mnist_marked(tmp_path / "cache" / "npconv" / "mnist", 1)
    mnist_marked(tmp_path / "data" / "mnist", 2)
    monkeypatch.setenv("NPCONV_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "mnist" / IDX_NAMES[3]).unlink()
    assert mark_of(datasets.load_mnist()) == 1


def test_each_set_has_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NPCONV_DATA", str(tmp_path))
    mnist_marked(tmp_path / "mnist", 1)
    mnist_marked(tmp_path / "fashion-mnist", 2)
    batches = write_cifar(tmp_path / "cifar10")
    assert mark_of(datasets.load_mnist()) == 1
    assert mark_of(datasets.load_fashion_mnist()) == 2
    assert_cifar(datasets.load_cifar10(normalize=False), batches)


def test_tilde_in_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mnist_marked(tmp_path / "digits", 4)
    assert mark_of(datasets.load_mnist("~/digits")) == 4


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/npconv"),
        ("linux", {"XDG_CACHE_HOME": "", "HOME": "/home/u"}, "/home/u/.cache/npconv"),
        ("darwin", {"HOME": "/Users/u"}, "/Users/u/Library/Caches/npconv"),
        ("win32", {"LOCALAPPDATA": "/u/AppData/Local"}, "/u/AppData/Local/npconv"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="the paths are POSIX")
def test_cache_folder(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert datasets._cache_folder() == Path(expected)


def test_root_is_the_only_place(tmp_path, monkeypatch):
    mnist_marked(tmp_path / "cache" / "npconv" / "mnist", 1)
    monkeypatch.setenv("NPCONV_DATA", str(tmp_path / "cache" / "npconv"))
    write_mnist(tmp_path / "root")
    (tmp_path / "root" / IDX_NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load_mnist(tmp_path / "root")
    message = str(caught.value)
    assert f"{tmp_path / 'root'} (no {IDX_NAMES[1]})" in message
    assert f"{tmp_path / 'root' / 'mnist'} (no such folder)" in message
    assert "train-labels-idx1-ubyte.gz" in message
    assert "download failed" not in message


# ---- Import ----


def test_import_is_cheap():
    heavy = ("gzip", "http.client", "ssl", "tarfile", "tqdm", "urllib.request")
    code = f"""
import importlib.util, sys
import numpy.typing
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("datasets_alone", {datasets.__file__!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(*(set(sys.modules) - before) & set({heavy!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---- The real sets, where NPCONV_DATA has them ----


def real(name: str) -> Path:
    folder = Path(REAL_DATA) / name
    if not REAL_DATA or not folder.is_dir():
        pytest.skip(f"NPCONV_DATA names no folder with {name}/")
    return folder


def test_real_mnist():
    (x_train, t_train), (x_test, t_test) = datasets.load_mnist(real("mnist"), normalize=False)
    assert (x_train.shape, x_test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert t_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert t_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert (x_train.sum(dtype=np.int64), x_test.sum(dtype=np.int64)) == (1567298545, 264923200)
    assert np.bincount(t_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_real_fashion_mnist():
    # Facts that hold for a copy in any order, too.
    splits = datasets.load_fashion_mnist(real("fashion-mnist"), normalize=False)
    for (x, t), count in zip(splits, (60000, 10000), strict=True):
        assert x.shape == (count, 1, 28, 28)
        assert np.bincount(t).tolist() == [count // 10] * 10
    assert splits[0][0].mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert splits[0][0].std() / 255 == pytest.approx(0.3530, abs=1e-4)
