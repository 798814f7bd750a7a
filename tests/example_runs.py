"""Runs the scripts of examples/ as a user would: what the tests of the examples share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def needs(*packages: str) -> None:
    """Skip the tests of a module where the examples, or what they need beside npconv, are not here."""
    if not EXAMPLES.is_dir():
        pytest.skip("the examples are not here: they come with the source tree", allow_module_level=True)
    for package in packages:
        pytest.importorskip(package)


def needs_data(name: str) -> pytest.MarkDecorator:
    """Skip a test where $NPCONV_DATA holds no such data set."""
    folder = Path(os.environ.get("NPCONV_DATA", "nowhere")) / name
    here = any(folder.glob("*batch*" if name == "cifar10" else "*images*"))
    return pytest.mark.skipif(not here, reason=f"NPCONV_DATA names no folder with the files of {name}")


def run(script: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run examples/`script` to its end on one thread; its output is in `stdout` and `stderr`."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        env={**os.environ, "NPCONV_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
