"""Threads, processes, signals, memory, instruction sets: how npconv behaves as a guest in a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import npconv

ROOT = Path(__file__).parent.parent
X = np.ones((8, 16, 40, 40), np.float32)
W = np.ones((16, 16, 3, 3), np.float32)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


# ---- threads ----


def test_set_num_threads_and_the_context_manager() -> None:
    before = npconv.get_num_threads()
    with npconv.threads(3):
        assert npconv.get_num_threads() == (3 if npconv.build_info()["openmp"] else 1)
        with contextlib.suppress(KeyError), npconv.threads(1):
            assert npconv.get_num_threads() == 1
            raise KeyError
        assert npconv.get_num_threads() == (3 if npconv.build_info()["openmp"] else 1)
    assert npconv.get_num_threads() == before


@pytest.mark.parametrize("count", [0, -3, 2**40])
def test_a_wrong_number_of_threads(count: int) -> None:
    with pytest.raises(ValueError, match="set_num_threads: n is"):
        npconv.set_num_threads(count)
    with pytest.raises(TypeError, match=r"set_num_threads: n is 1\.5"):
        npconv.set_num_threads(1.5)  # type: ignore[arg-type]


def test_the_environment_sets_the_number_of_threads() -> None:
    code = "import npconv; print(npconv.get_num_threads())"
    expected = "3" if npconv.build_info()["openmp"] else "1"
    assert run_python(code, NPCONV_NUM_THREADS="3").stdout.strip() == expected
    for wrong in ("0", "many", "1.5", "-1"):
        result = run_python(code, NPCONV_NUM_THREADS=wrong)
        assert result.returncode == 1
        assert f"NPCONV_NUM_THREADS is '{wrong}', it must be a whole number" in result.stderr
        assert "ImportError" in result.stderr


def test_calls_from_many_threads_at_once() -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((3, 8, 30, 30 + i)) for i in range(8)]
    weight = rng.standard_normal((20, 8, 3, 3))
    expected = [npconv.conv2d(x, weight, padding=1) for x in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(20):
            y = npconv.conv2d(inputs[i], weight, padding=1)
            if not np.array_equal(y, expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive()
    assert not wrong


def test_other_python_threads_run_during_a_call() -> None:
    """The GIL is released: a thread counts while a convolution is on."""
    x, weight = np.ones((16, 64, 64, 64), np.float32), np.ones((64, 64, 3, 3), np.float32)
    count, running = [0], [True]

    def work() -> None:
        while running[0]:
            count[0] += 1
            time.sleep(0.001)  # lets go of the GIL, and needs it again to go on

    worker = threading.Thread(target=work)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # whoever holds the GIL now keeps it until letting go by itself
    try:
        npconv.conv2d(x[:1], weight)
        with npconv.threads(1):
            worker.start()
            before = count[0]
            npconv.conv2d(x, weight)
            during = count[0] - before
    finally:
        running[0] = False
        sys.setswitchinterval(switch)
        worker.join()
    assert during > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_works_on_one_thread() -> None:
    """OpenMP's pool does not survive a fork; entering it would hang."""
    code = """
import os, sys, warnings
import numpy as np, npconv
warnings.simplefilter("ignore")
npconv.set_num_threads(2)
x, w = np.ones((8, 16, 40, 40), np.float32), np.ones((16, 16, 3, 3), np.float32)
y = npconv.conv2d(x, w)                     # the parent's pool is up
child = os.fork()
if child == 0:
    npconv.set_num_threads(2)
    same = np.array_equal(npconv.conv2d(x, w), y) and npconv.get_num_threads() == 1
    os._exit(0 if same else 3)
status = os.waitpid(child, 0)[1]
assert np.array_equal(npconv.conv2d(x, w), y)   # and still is
sys.exit(os.waitstatus_to_exitcode(status))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_ends_a_long_call() -> None:
    code = """
import numpy as np, npconv
npconv.set_num_threads(2)
x, w = np.ones((32, 256, 64, 64), np.float32), np.ones((256, 256, 11, 11), np.float32)
print("started", flush=True)
try:
    npconv.conv2d(x, w)                      # some seconds
    print("finished")
except KeyboardInterrupt:
    y = npconv.conv2d(x[:1, :, :16, :16], w)  # and the next call works
    print("interrupted", float(y[0, 0, 0, 0]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted 30976.0\n"


# ---- memory ----


def peak_memory(code: str) -> int:
    """Return by how many bytes the peak of resident memory grows while `code` runs (after a smaller warm-up)."""
    setup = """
import resource, sys
import numpy as np, npconv
npconv.set_num_threads(2)
unit = 1 if sys.platform == "darwin" else 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
"""
    result = run_python(setup + code)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_convolution_never_makes_the_im2col_matrix() -> None:
    """(8, 64, 112, 112) by 64 filters of 3x3: im2col would be 231 MB; less than 16 MiB beyond the result are taken."""
    code = """
x, w = np.ones((8, 64, 112, 112), np.float32), np.ones((64, 64, 3, 3), np.float32)
before = peak()
y = npconv.conv2d(x, w, padding=1)
print(peak() - before - y.nbytes)
"""
    assert peak_memory(code) < 16 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_gradients_never_make_the_im2col_matrix() -> None:
    code = """
x, w = np.ones((8, 64, 112, 112), np.float32), np.ones((64, 64, 3, 3), np.float32)
dy = np.ones_like(x)
before = peak()
gradients = npconv.conv2d_backward(dy, x, w, padding=1)
print(peak() - before - sum(g.nbytes for g in gradients))
"""
    assert peak_memory(code) < 16 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize(
    ("shape", "weight_shape", "stride", "padding"),
    [
        ((8, 64, 56, 56), (64, 64, 3, 3), 1, 1),
        ((8, 512, 7, 7), (512, 512, 3, 3), 1, 1),
        ((8, 3, 224, 224), (64, 3, 7, 7), 2, 3),
        ((8, 128, 56, 56), (128, 128, 3, 3), 2, 1),
        ((8, 256, 56, 56), (64, 256, 1, 1), 1, 0),
        ((24, 3, 224, 224), (192, 3, 16, 16), 16, 0),
        ((16, 64, 56, 56), (128, 64, 2, 2), 2, 0),
    ],
)
def test_memory_beyond_arrays_is_bounded(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], stride: int, padding: int
) -> None:
    """Whatever the batch: 16 MiB, and four times the weights."""
    code = f"""
x, w = np.ones({shape}, np.float32), np.ones({weight_shape}, np.float32)
before = peak()
y = npconv.conv2d(x, w, None, {stride}, {padding})
gradients = npconv.conv2d_backward(y, x, w, {stride}, {padding})
print(peak() - before - y.nbytes - sum(g.nbytes for g in gradients) - 4 * w.nbytes)
"""
    assert peak_memory(code) < 16 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_memory_does_not_grow_from_call_to_call() -> None:
    code = """
rng = np.random.default_rng(0)
def calls(count):
    for _ in range(count):
        c, k, size = rng.integers(1, 40), rng.integers(1, 40), rng.integers(5, 40)
        x, w = np.ones((2, c, size, size), np.float32), np.ones((k, c, 3, 3), np.float32)
        y = npconv.conv2d(x, w, padding=1)
        npconv.conv2d_backward(y, x, w, padding=1)
        npconv.max_pool2d(x, 2, return_indices=True)
calls(200)
before = peak()
calls(1000)
print(peak() - before)
"""
    assert peak_memory(code) < 4 << 20


def test_the_memory_of_results_is_kept_and_released() -> None:
    npconv.release_memory()
    assert npconv.build_info()["kept_bytes"] == 0
    y = npconv.conv2d(X, W, algorithm="gemm")
    first = y.ctypes.data
    assert first % 64 == 0
    kept = y[1:].copy(), y[1:]
    del y
    assert npconv.build_info()["kept_bytes"] == 0  # a view still needs it
    np.testing.assert_array_equal(*kept)
    del kept
    assert npconv.build_info()["kept_bytes"] > 0
    assert npconv.conv2d(X, W, algorithm="gemm").ctypes.data == first
    for padding in range(0, 200, 2):
        npconv.conv2d(X, W, padding=padding)
    assert npconv.build_info()["kept_bytes"] <= 128 << 20
    npconv.release_memory()
    assert npconv.build_info()["kept_bytes"] == 0


def test_import_is_light() -> None:
    """`import npconv` adds nothing heavy to `import numpy`."""
    code = """
import sys, numpy
before = set(sys.modules)
import npconv
print(*sorted(set(sys.modules) - before))
"""
    modules = set(run_python(code).stdout.split())
    assert "npconv._core" in modules
    assert not modules & {
        "matplotlib",
        "rich",
        "tqdm",
        "urllib.request",
        "http.client",
        "ssl",
        "tarfile",
        "gzip",
        "asyncio",
    }


# ---- instruction sets ----


def test_build_info() -> None:
    info = npconv.build_info()
    assert info["version"] == npconv.__version__
    assert set(info["isa_supported"]) <= set(info["isa_compiled"])
    assert info["isa_compiled"][-1] == "baseline"
    assert info["isa_in_use"] in info["isa_supported"]
    json.dumps(info)


@pytest.mark.parametrize("isa", npconv.build_info()["isa_supported"])
def test_every_instruction_set_passes_the_same_tests(isa: str) -> None:
    code = "import npconv; print(npconv.build_info()['isa_in_use'])"
    assert run_python(code, NPCONV_ISA=isa).stdout.strip() == isa
    if isa == npconv.build_info()["isa_in_use"]:
        return  # the tests around this one are run with it
    names = (
        "conv",
        "conv_amx",
        "conv_batch",
        "conv_dilated_patches",
        "conv_phases",
        "winograd",
        "pool",
        "operators",
        "avg_pool",
        "unpool",
        "fold",
        "conv_transpose",
        "normalization",
    )
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "NPCONV_ISA": isa, "NPCONV_HYPOTHESIS_PROFILE": "quick"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", "vsx"])
def test_an_unknown_instruction_set_is_refused(isa: str) -> None:
    result = run_python("import npconv", NPCONV_ISA=isa)
    assert result.returncode == 1
    assert f"ImportError: npconv: its compiled part does not load: NPCONV_ISA is '{isa}'" in result.stderr
    assert ", ".join(npconv.build_info()["isa_compiled"]) in result.stderr


def instruction_sets() -> list[tuple[str, list[str]]]:
    """Return name and compiler flags of the instruction sets of this machine's architecture, from CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text()
    flags = {name: value.split() for name, value in re.findall(r"set\((\w+)_flags([^)]*)\)", text)}
    return [(isa, flags[isa]) for isa in npconv.build_info()["isa_compiled"]]


@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="needs c++ and nm")
@pytest.mark.parametrize(("isa", "flags"), instruction_sets())
def test_kernel_objects_export_one_symbol(tmp_path: Path, isa: str, flags: list[str]) -> None:
    """Anything else could be merged with another file's copy and run instructions that the CPU lacks."""
    source, target = ROOT / "csrc" / "kernels" / f"{isa}.cpp", tmp_path / "kernels.o"
    # Not optimised: every copy that could be merged is there.
    command = ["c++", "-std=c++17", "-O0", "-fno-math-errno", "-fPIC", *flags, "-c", str(source), "-o", str(target)]
    subprocess.run(command, check=True, timeout=300)
    listing = subprocess.run(["nm", "-g", "-C", str(target)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=1) for line in listing.splitlines() if " U " not in line]
    assert [symbol[1].split(maxsplit=1)[1] for symbol in symbols] == [f"npconv::kernels_{isa}"]
    undefined = {line.split()[-1].lstrip("_") for line in listing.splitlines() if " U " in line}
    assert undefined <= {"memcpy", "memset", "memmove", "GLOBAL_OFFSET_TABLE_", "stack_chk_fail"}
