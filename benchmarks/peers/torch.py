"""PyTorch, with images in either memory format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from shapes import Conv, Operator, Pool
from torch import nn
from torch.nn import functional as F

from peers import networks
from peers.rows import Makers, Task, Variants

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}

OPERATORS: dict[str, Callable[..., Any]] = {
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "max_unpool2d": F.max_unpool2d,
    "unfold": F.unfold,
    "fold": F.fold,
    "local_response_norm": F.local_response_norm,
    "batch_norm": lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True),
    "conv2d": F.conv2d,
    "conv_transpose2d": F.conv_transpose2d,
}


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
    for layer in networks.NETWORKS[network].layers:
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


def optimizer(network: str, parameters: Any) -> torch.optim.Optimizer:
    """Return the optimizer in the fastest of its three forms."""
    kind, lr, momentum = networks.NETWORKS[network].optimizer
    if kind == "Adam":
        return torch.optim.Adam(parameters, lr, fused=True)
    return torch.optim.SGD(parameters, lr, momentum, fused=True)


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

    def operator(subject: Operator, memory_format: Any) -> tuple[Callable[..., Any], list[Any], Any]:
        inputs, dy = subject.arrays(dtype)
        function = partial(OPERATORS[subject.operator], **subject.options)
        return function, [tensor(array, memory_format) for array in inputs], tensor(dy, memory_format)

    def operator_forward(subject: Operator) -> Variants:
        def make(memory_format: Any) -> Task:
            function, inputs, _ = operator(subject, memory_format)
            return forward(function, *inputs)

        return variants(make)

    def operator_backward(subject: Operator) -> Variants:
        def make(memory_format: Any) -> Task:
            function, inputs, dy = operator(subject, memory_format)
            differentiable = [a.requires_grad_() for a in inputs if a.is_floating_point()]  # indices are not
            return backward(function(*inputs), differentiable, dy)

        return variants(make)

    def training_step(network: str) -> Variants:
        def make(memory_format: Any) -> Task:
            x, t = (tensor(array, memory_format) for array in networks.batch(network, dtype))
            net, loss = module(network, dtype, memory_format), nn.CrossEntropyLoss()
            rule = optimizer(network, net.parameters())

            def run() -> None:
                rule.zero_grad()
                loss(net(x), t).backward()
                rule.step()

            return run

        return variants(make)

    def inference(network: str) -> Variants:
        def make(memory_format: Any) -> Task:
            x = tensor(networks.batch(network, dtype)[0], memory_format)
            return forward(module(network, dtype, memory_format).eval(), x)

        return variants(make)

    return {
        "conv forward": lambda shape: variants(lambda layout: forward(F.conv2d, *conv(shape, layout)[0])),
        "conv backward": conv_backward,
        "pool forward": lambda shape: variants(lambda layout: forward(F.max_pool2d, *pool(shape, layout))),
        "pool backward": pool_backward,
        "operator forward": operator_forward,
        "operator backward": operator_backward,
        "training step": training_step,
        "inference": inference,
    }
