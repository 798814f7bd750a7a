"""A training step (forward, loss, backward, Adam) on npconv's kernels and on plain NumPy: the same network, twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bench_operators import IMPLEMENTATIONS, implementation, measure  # noqa: F401  (a fixture)

from npconv import fusing, layers, models, optimizers


class NumpyAdam(optimizers.Adam):
    """Adam by its formula in NumPy, where `Adam` itself runs compiled code."""

    @staticmethod
    def _step(params: Any, grads: Any, kept: Any, numbers: Any) -> None:
        rate, epsilon, beta1, beta2 = numbers
        for w, g, m, v in zip(params, grads, kept[::2], kept[1::2], strict=True):
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g**2 - v)
            w -= rate * m / (np.sqrt(v) + epsilon)


NETWORKS = {"SimpleConvNet": models.SimpleConvNet, "DeepConvNet": models.DeepConvNet}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS)
def test_training_step(
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    implementation: str,  # noqa: F811
    network: str,
    dtype: str,
) -> None:
    for module in layers, fusing:  # which call every operator through F
        monkeypatch.setattr(module, "F", IMPLEMENTATIONS[implementation])
    rng = np.random.default_rng(0)
    x, t = rng.random((100, 1, 28, 28)).astype(dtype), rng.integers(0, 10, 100)
    net = NETWORKS[network](rng=1, dtype=dtype)
    optimizer = optimizers.Adam() if implementation == "npconv" else NumpyAdam()

    def step() -> None:
        optimizer.update(net.params, net.gradient(x, t))

    measure(benchmark, f"training step {network}, batch 100, {dtype}", implementation, step)
