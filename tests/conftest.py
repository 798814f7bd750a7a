"""What the tests share: hypothesis without deadlines (the machine may be busy), and the check against the reference."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("npconv", deadline=None, derandomize=True, max_examples=150)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=40)
settings.load_profile(os.environ.get("NPCONV_HYPOTHESIS_PROFILE", "npconv"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
