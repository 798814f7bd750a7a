"""Weights of every network of the examples pass to PyTorch and back, and mean the same there."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from example_runs import EXAMPLES, needs
from numpy.testing import assert_allclose, assert_array_equal

from npconv import nn

needs("matplotlib")
torch = pytest.importorskip("torch")

# Of each network: its script, the function that builds it and what that takes beside rng, and the shape of a sample.
NETWORKS: list[tuple[str, str, tuple[Any, ...], tuple[int, ...]]] = [
    ("mnist_mlp_vs_cnn", "mlp", (), (1, 28, 28)),
    ("mnist_mlp_vs_cnn", "net2", (), (1, 28, 28)),
    ("fashion_mnist", "dense", (), (1, 28, 28)),
    ("fashion_mnist", "cnn", (), (1, 28, 28)),
    ("cifar10", "network", (), (3, 32, 32)),
    ("lenet", "published", (), (1, 32, 32)),
    ("lenet", "modern", (), (1, 32, 32)),
    ("alexnet", "small_alexnet", (), (3, 32, 32)),
    ("alexnet", "published_alexnet", (), (3, 227, 227)),
    ("dropout", "network", (0.5,), (1, 28, 28)),
]


class ScaledTanh(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return 1.7159 * torch.tanh(x * 2 / 3)


class Subsampling(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = torch.nn.Parameter(torch.empty(channels, 1, 1))

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.avg_pool2d(x, 2) * self.weight + self.bias


def twin(layer: Any) -> Any:
    """Return PyTorch's layer of the same arguments; its weights are any."""
    kind = type(layer).__name__
    if kind == "ScaledTanh":
        return ScaledTanh()
    if kind == "Subsampling":
        return Subsampling(len(layer.weight))
    if isinstance(layer, nn.Conv2d):  # PartlyConnectedConv2d as well: what it leaves out is 0
        options = layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is not None
        return torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, *options)
    if isinstance(layer, nn.Linear):
        return torch.nn.Linear(layer.in_features, layer.out_features)
    arguments = {
        "ReLU": (),
        "Flatten": (),
        "MaxPool2d": ("kernel_size", "stride", "padding"),
        "Dropout": ("p",),
        "LocalResponseNorm": ("size", "alpha", "beta", "k"),
    }[kind]
    return getattr(torch.nn, kind)(*(getattr(layer, name) for name in arguments))


@pytest.mark.parametrize(("script", "build", "arguments", "shape"), NETWORKS, ids=lambda value: str(value))
def test_states_pass_both_ways_and_outputs_are_pytorchs(monkeypatch, script, build, arguments, shape):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    network = getattr(importlib.import_module(script), build)
    ours = network(*arguments, rng=np.random.default_rng(0)).eval()
    theirs = torch.nn.Sequential()
    for name, layer in ours.layers.items():
        theirs.add_module(name, twin(layer))
    theirs.eval()
    x = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)

    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    assert_allclose(ours(x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())

    ours.load_state_dict({name: tensor * 1.5 for name, tensor in theirs.state_dict().items()})
    for name, tensor in theirs.state_dict().items():
        assert_array_equal(ours.state_dict()[name], 1.5 * tensor.numpy(), err_msg=name)
