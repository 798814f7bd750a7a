"""Data sets: reading, finding and downloading; downloads come from a server in the test process."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from npconv import datasets

REAL_DATA = os.environ.get("NPCONV_DATA", "")  # read before `isolated` hides it
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
BATCH_NAMES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
NOBODY = "http://127.0.0.1:9/"  # a port where nothing listens


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees the user's folders or leaves this machine."""
    monkeypatch.delenv("NPCONV_DATA", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("_MNIST", "_FASHION_MNIST", "_CIFAR10"):
        monkeypatch.setattr(datasets, name, getattr(datasets, name)._replace(mirrors=(NOBODY,)))


# ---- Small sets, made here ----


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


# ---- Download, from a server in this process ----


class Server:
    """Serves `files` (path -> bytes, an int status, or a function of the handler) and counts the requests."""

    def __init__(self) -> None:
        self.files: dict[str, object] = {}
        self.requests: list[str] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                answer = server.files.get(self.path, 404)
                if callable(answer):
                    answer(self)
                elif isinstance(answer, int):
                    self.send_error(answer)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def published(server, monkeypatch):
    """A small MNIST on the mirrors /good/ (which serves it) and /bad/ (which does not), the bad one first."""
    arrays = mnist_arrays()
    files = {f"{name}.gz": gzip.compress(idx_bytes(a)) for name, a in zip(IDX_NAMES, arrays, strict=True)}
    server.files = {f"/good/{name}": data for name, data in files.items()}
    source = datasets._MNIST._replace(
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        mirrors=(f"{server.url}/bad/", f"{server.url}/good/"),
    )
    monkeypatch.setattr(datasets, "_MNIST", source)
    return arrays


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def use_mirrors(monkeypatch, *mirrors: str) -> None:
    monkeypatch.setattr(datasets, "_MNIST", datasets._MNIST._replace(mirrors=mirrors))


def test_download_then_cache(tmp_path, monkeypatch, server, published):
    use_mirrors(monkeypatch, f"{server.url}/good/")
    assert_mnist(datasets.load_mnist(normalize=False), published)
    assert server.requests == [f"/good/{name}.gz" for name in IDX_NAMES]
    assert cached(tmp_path) == sorted(f"{name}.gz" for name in IDX_NAMES)
    assert_mnist(datasets.load_mnist(normalize=False), published)
    assert len(server.requests) == 4


def test_a_stopped_download_goes_on_where_it_stopped(tmp_path, server, published):
    last = f"/good/{IDX_NAMES[3]}.gz"
    data = server.files.pop(last)
    with pytest.raises(datasets.DatasetNotFoundError):
        datasets.load_mnist()
    assert len(cached(tmp_path)) == 3
    server.requests.clear()
    server.files[last] = data
    assert_mnist(datasets.load_mnist(normalize=False), published)
    assert server.requests == [f"/bad/{IDX_NAMES[3]}.gz", last]


def hang_up(handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def promise_too_much(handler) -> None:
    """Send less than announced."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"x" * 1000)


def talk_nonsense(handler) -> None:
    """Answer in something that is not HTTP."""
    handler.wfile.write(b"nonsense\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (404, "HTTP Error 404"),
        (503, "HTTP Error 503"),
        (b"<html>please log in</html>", "its SHA-256 is"),
        (b"", "its SHA-256 is"),
        (hang_up, "closed connection without response"),
        (promise_too_much, "its SHA-256 is|IncompleteRead"),
        (talk_nonsense, "nonsense"),
    ],
)
def test_bad_mirror(tmp_path, monkeypatch, server, published, answer, reason):
    server.files |= {f"/bad/{name}.gz": answer for name in IDX_NAMES}
    assert_mnist(datasets.load_mnist(normalize=False), published)  # the second mirror is good
    assert len(server.requests) == 8
    assert not [name for name in cached(tmp_path) if name.endswith(".part")]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    use_mirrors(monkeypatch, f"{server.url}/bad/")  # no mirror is good
    with pytest.raises(datasets.DatasetNotFoundError, match=reason) as caught:
        datasets.load_mnist()
    assert f"{server.url}/bad/{IDX_NAMES[0]}.gz" in str(caught.value)
    assert not [path for path in (tmp_path / "empty").rglob("*") if path.is_file()]


def test_silent_mirror_times_out(tmp_path, monkeypatch, server, published):
    end = threading.Event()
    server.files |= {f"/bad/{name}.gz": lambda handler: end.wait(10) for name in IDX_NAMES}
    monkeypatch.setattr(datasets, "_TIMEOUT", 0.1)
    use_mirrors(monkeypatch, f"{server.url}/bad/")
    try:
        with pytest.raises(datasets.DatasetNotFoundError, match="timed out"):
            datasets.load_mnist()
    finally:
        end.set()
    assert cached(tmp_path) == []


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("NPCONV_DATA", str(tmp_path / "data"))
    with pytest.raises(datasets.DatasetNotFoundError) as caught:
        datasets.load_fashion_mnist()
    message = str(caught.value)
    for part in (
        str(tmp_path / "data" / "fashion-mnist"),
        str(tmp_path / "cache" / "npconv" / "fashion-mnist"),
        NOBODY + "train-images-idx3-ubyte.gz",
        "Connection refused",
        "by hand",
        "NPCONV_DATA",
    ):
        assert part in message
    assert message.count("\n") == 1
    assert cached(tmp_path) == []


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, server, published):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(datasets.DatasetNotFoundError, match=r"Not a directory|exists"):
        datasets.load_mnist()
    assert server.requests == []


def test_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, server, published):
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    class Bar:
        def __init__(self, label: str, size: int | None) -> None:
            pass

        def __enter__(self):
            assert [name for name in cached(tmp_path) if name.endswith(".part")]
            return interrupt

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(datasets, "_progress_bar", Bar)
    with pytest.raises(KeyboardInterrupt):
        datasets.load_mnist()
    assert cached(tmp_path) == []


def test_two_downloads_at_once(tmp_path, server, published):
    together = threading.Barrier(2, timeout=10)

    def serve_both_at_once(data: bytes):
        def answer(handler) -> None:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(data[:100])
            handler.wfile.flush()
            together.wait()  # both are now halfway
            handler.wfile.write(data[100:])

        return answer

    first = f"/good/{IDX_NAMES[0]}.gz"
    server.files[first] = serve_both_at_once(server.files[first])
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(datasets.load_mnist(normalize=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for splits in results:
        assert_mnist(splits, published)
    assert cached(tmp_path) == sorted(f"{name}.gz" for name in IDX_NAMES)


def test_cifar_download(tmp_path, monkeypatch, server):
    batches = cifar_batches()
    data = cifar_tar(batches)
    server.files["/cifar-10-binary.tar.gz"] = data
    source = datasets._CIFAR10._replace(
        sha256={"cifar-10-binary.tar.gz": hashlib.sha256(data).hexdigest()}, mirrors=(f"{server.url}/",)
    )
    monkeypatch.setattr(datasets, "_CIFAR10", source)
    assert_cifar(datasets.load_cifar10(normalize=False), batches)
    assert_cifar(datasets.load_cifar10(normalize=False), batches)
    assert len(server.requests) == 1
    assert cached(tmp_path) == ["cifar-10-binary.tar.gz"]


def test_without_tqdm(monkeypatch, server, published):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert_mnist(datasets.load_mnist(normalize=False), published)


def test_progress_bar_counts_bytes(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    bars = []

    class Recorder(tqdm.tqdm):
        def __init__(self, **options) -> None:
            assert options["disable"] is None  # tqdm then shows nothing where stderr is no terminal
            super().__init__(**{**options, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Recorder)
    with datasets._progress_bar("file.gz", 300) as advance:
        advance(100)
        advance(200)
    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (300, 300, "file.gz")


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
