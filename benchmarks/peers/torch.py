"""PyTorch, with images in either memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from shapes import Conv, Pool
from torch import nn
from torch.nn import functional as F

from peers import networks
from peers.rows import Makers, Task, Variants

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def to_numpy(value: Any) -> Any:
    return value.detach().numpy()


def tensor(array: Any, memory_format: Any) -> Any:
    made = torch.from_numpy(array)
    return made.clone(memory_format=memory_format) if made.ndim == 4 else made


def variants(make: Callable[[Any], Task]) -> Variants:
    """Return what `make` makes of each memory format."""
    return {name: make(memory_format) for name, memory_format in FORMATS.items()}


def forward(function: Callable[..., Any], *arguments: Any) -> Task:
    def run() -> Any:
        with torch.inference_mode():
            return function(*arguments)

    return run


def backward(y: Any, inputs: list[Any], dy: Any) -> Task:
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def module(network: str, dtype: str, memory_format: Any) -> Any:
    made: list[Any] = []
    arrays = iter(networks.weights(network, dtype))
    flat = False
    for layer in networks.NETWORKS[network]:
        if layer.kind == "dense" and not flat:
            made.append(nn.Flatten())
            flat = True
        if layer.kind == "conv":
            made.append(nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, padding=layer.padding))
        elif layer.kind == "dense":
            made.append(nn.Linear(layer.inputs, layer.outputs))
        elif layer.kind == "relu":
            made.append(nn.ReLU())
        elif layer.kind == "pool":
            made.append(nn.MaxPool2d(2))
        else:
            made.append(nn.Dropout(layer.ratio))
        if layer.kind in ("conv", "dense"):
            weight, bias = map(torch.from_numpy, next(arrays))
            made[-1].weight.data = weight if layer.kind == "conv" else weight.T.contiguous()
            made[-1].bias.data = bias
    net: Any = nn.Sequential(*made)
    return net.to(memory_format=memory_format)


def tasks(threads: int, dtype: str) -> Makers:
    torch.set_num_threads(threads)

    def conv(shape: Conv, memory_format: Any) -> tuple[tuple[Any, ...], Any]:
        x, weight, bias, dy = (tensor(array, memory_format) for array in shape.arrays(dtype))
        return (x, weight, bias, shape.stride, shape.padding), dy

    def conv_backward(shape: Conv) -> Variants:
        def make(memory_format: Any) -> Task:
            arguments, dy = conv(shape, memory_format)
            inputs = [a.requires_grad_() for a in arguments[:3]]
            return backward(F.conv2d(*arguments), inputs, dy)

        return variants(make)

    def pool(shape: Pool, memory_format: Any) -> tuple[Any, ...]:
        return tensor(shape.array(dtype), memory_format), shape.kernel, shape.stride, shape.padding

    def pool_backward(shape: Pool) -> Variants:
        def make(memory_format: Any) -> Task:
            x, *options = pool(shape, memory_format)
            y = F.max_pool2d(x.requires_grad_(), *options)
            return backward(y, [x], y.detach())

        return variants(make)

    def training_step(network: str) -> Variants:
        def make(memory_format: Any) -> Task:
            x, t = (tensor(array, memory_format) for array in networks.batch(dtype))
            net, loss = module(network, dtype, memory_format), nn.CrossEntropyLoss()
            optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)  # the fastest of its three

            def run() -> None:
                optimizer.zero_grad()
                loss(net(x), t).backward()
                optimizer.step()

            return run

        return variants(make)

    def inference(network: str) -> Variants:
        def make(memory_format: Any) -> Task:
            x = tensor(networks.batch(dtype)[0], memory_format)
            return forward(module(network, dtype, memory_format).eval(), x)

        return variants(make)

    return {
        "conv forward": lambda shape: variants(lambda layout: forward(F.conv2d, *conv(shape, layout)[0])),
        "conv backward": conv_backward,
        "pool forward": lambda shape: variants(lambda layout: forward(F.max_pool2d, *pool(shape, layout))),
        "pool backward": pool_backward,
        "training step": training_step,
        "inference": inference,
    }
