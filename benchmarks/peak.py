"""Measures the machine's roofs, so that every rate can be printed as a share of them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np


@cache
def _library() -> ctypes.CDLL | None:
    """Compile and load peak.cpp; None where there is no compiler with OpenMP."""
    source = Path(__file__).with_name("peak.cpp")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "peak.so")
        compiler = os.environ.get("CXX", "c++")
        flags = ["-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast", "-fopenmp"]
        for options in (flags, [flag for flag in flags if not flag.startswith("-mprefer")]):  # the last is x86's alone
            command = [compiler, *options, "-shared", "-fPIC", str(source), "-o", str(target)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            library = ctypes.CDLL(str(target))
            library.fma_rate.restype = library.copy_rate.restype = ctypes.c_double
            return library
    return None


@cache
def fma_peak(threads: int) -> float:
    """Return float32 operations per second (two per multiply-add) of `threads` cores; nan if it cannot be measured."""
    library = _library()
    if library is None:
        return float("nan")
    sink = np.ones(max(threads, 1), np.float32)
    pointer = sink.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return max(float(library.fma_rate(threads, ctypes.c_long(2_000_000), pointer)) for _ in range(5))


@cache
def copy_peak(threads: int) -> float:
    """Return bytes moved per second (read plus written) by `threads` cores copying 128 MiB; nan if not measurable."""
    library = _library()
    if library is None:
        return float("nan")
    source, target = np.ones(2**27, np.uint8), np.ones(2**27, np.uint8)
    size = ctypes.c_size_t(source.nbytes)
    pointers = ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data)
    return max(float(library.copy_rate(threads, size, *pointers)) for _ in range(5))


if __name__ == "__main__":
    for count in range(1, (os.cpu_count() or 1) + 1):
        print(f"{count} threads: {fma_peak(count) / 1e9:.0f} GFLOP/s, {copy_peak(count) / 1e9:.1f} GB/s")
