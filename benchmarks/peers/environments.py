"""Gives each library a virtual environment of its own, so that none has to live with another's dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-peers"


class Peer(NamedTuple):
    """A library under the name of its module: its name in tables, and what pip is asked for."""

    title: str
    requirements: tuple[str, ...]


# NumPy alone has no fixed version: which is the newest depends on the version of Python.  The versions in use are
# written into the results.
PEERS = {
    "npconv": Peer("npconv", (str(ROOT),)),
    "torch": Peer("PyTorch", ("torch==2.13.0", "numpy")),
    "onnxruntime": Peer("ONNX Runtime", ("onnxruntime==1.31.1", "onnx==1.23.2")),
    "openvino": Peer("OpenVINO", ("openvino==2026.4.1", "onnx==1.23.2")),
    "keras": Peer("Keras/TensorFlow", ("keras==3.15.1", "tensorflow==2.21.0")),
    "jax": Peer("JAX", ("jax==0.10.2", "jaxlib==0.10.2")),
    "numpy_book": Peer("NumPy, as in the book", ("numpy",)),
}


class Unavailable(Exception):
    """A library cannot be installed or imported here; the message says why."""


def prepare(name: str) -> Path:
    """Return the Python of `name`'s environment, which is made, filled or brought up to date first if need be.

    Raises
    ------
    Unavailable
        If that fails.
    """
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    requirements = "\n".join(PEERS[name].requirements)
    if name != "npconv" and stamp.exists() and stamp.read_text() == requirements:
        return python
    print(f"installing {name} into {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(folder))
    _run(str(python), "-m", "pip", "install", "--quiet", *PEERS[name].requirements)
    stamp.write_text(requirements)
    return python


def _run(*command: str) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise Unavailable(f"cannot be installed: {last_line(result.stdout)}")


def last_line(text: str) -> str:
    """Return what most likely says why something failed: the last line of `text`, or the last that names an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:300]


def distributions(name: str) -> list[str]:
    """Return the names of the packages whose versions belong into the results: what pip is asked for, and NumPy."""
    names = [requirement.split("==")[0] for requirement in PEERS[name].requirements]
    return list(dict.fromkeys(["npconv" if "/" in package else package for package in names] + ["numpy"]))


def variables(threads: int) -> dict[str, str]:
    """Return the environment variables of a worker: `threads` threads for everyone, no accelerator, no idle chatter.

    How long idle threads spin is left to each library, and settings of it are taken away: the pause after each answer
    lets them fall asleep, where a shorter spin would cost them time while they are measured.
    """
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NPCONV_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "NPROC",  # how XLA's CPU client sizes its pool
    ):
        settings[name] = str(threads)
    settings["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    settings |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "tensorflow"}
    settings |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    return settings
