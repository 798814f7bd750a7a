"""Data sets: downloading them, from a server in the test process."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import sys
import threading
from pathlib import Path

import pytest
from dataset_files import (
    IDX_NAMES,
    NOBODY,
    assert_cifar,
    assert_mnist,
    cifar_batches,
    cifar_tar,
    idx_bytes,
    mnist_arrays,
)

from npconv import datasets

pytestmark = pytest.mark.usefixtures("isolated")


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
