"""What the tests share: hypothesis without deadlines (the machine may be busy), random numbers, no data but its own."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from dataset_files import NOBODY
from hypothesis import settings

from npconv import datasets

settings.register_profile("npconv", deadline=None, derandomize=True, max_examples=150)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=40)
settings.load_profile(os.environ.get("NPCONV_HYPOTHESIS_PROFILE", "npconv"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def isolated(monkeypatch, tmp_path):
    """No test of data sets sees the user's folders or leaves this machine."""
    monkeypatch.delenv("NPCONV_DATA", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("_MNIST", "_FASHION_MNIST", "_CIFAR10"):
        monkeypatch.setattr(datasets, name, getattr(datasets, name)._replace(mirrors=(NOBODY,)))
