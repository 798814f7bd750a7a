"""npconv itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shapes import Conv, Operator, Pool

import npconv
from npconv import functional, models, nn, optimizers
from peers import networks
from peers.rows import Makers, Task, Variants

MODELS = {"SimpleConvNet": models.SimpleConvNet, "DeepConvNet": models.DeepConvNet}  # the others are made of npconv.nn

# The gradients of each operator, from `F`, dy, what the operator gave, what it took, and its options.
GRADIENTS: dict[str, Callable[..., Any]] = {
    "avg_pool2d": lambda F, dy, y, x, **options: F.avg_pool2d_backward(dy, x.shape, **options),
    "adaptive_avg_pool2d": lambda F, dy, y, x, output_size: F.adaptive_avg_pool2d_backward(dy, x.shape),
    "max_unpool2d": lambda F, dy, y, x, indices, kernel_size: F.max_unpool2d_backward(dy, indices, x.shape),
    "unfold": lambda F, dy, y, x, **options: F.fold(dy, x.shape[2:], **options),
    "fold": lambda F, dy, y, x, output_size, **options: F.unfold(dy, **options),
    "local_response_norm": lambda F, dy, y, x, **options: F.local_response_norm_backward(dy, x, y, **options),
    "batch_norm": lambda F, dy, y, x, weight, bias: F.batch_norm_backward(dy, x, weight, *y[1:]),
    "conv2d": lambda F, dy, y, x, weight, bias, **options: F.conv2d_backward(dy, x, weight, **options),
    "conv_transpose2d": lambda F, dy, y, x, weight, bias, **options: F.conv_transpose2d_backward(
        dy, x, weight, **options
    ),
}


def forward(F: Any, subject: Operator, dtype: str) -> Task:
    """Return the operator as `F` has it, `npconv.functional` or `npconv.reference`."""
    inputs, _ = subject.arrays(dtype)
    function, options = getattr(F, subject.operator), subject.options
    if subject.operator == "batch_norm":
        return lambda: function(*inputs)[0]  # without mean and variance, which others keep to themselves
    return lambda: function(*inputs, **options)


def backward(F: Any, subject: Operator, dtype: str) -> Task:
    """Return the gradients of the operator; what they need of the forward pass is computed here."""
    inputs, dy = subject.arrays(dtype)
    gradients, options = GRADIENTS[subject.operator], subject.options
    y = getattr(F, subject.operator)(*inputs, **options)
    return lambda: gradients(F, dy, y, *inputs, **options)


def optimizer(network: str) -> optimizers.Optimizer:
    kind, lr, momentum = networks.NETWORKS[network].optimizer
    return optimizers.Adam(lr) if kind == "Adam" else optimizers.Momentum(lr, momentum)


def model(network: str, dtype: str) -> Any:
    """Return one of `npconv.models`."""
    net = MODELS[network](rng=1, dtype=dtype)
    for number, arrays in enumerate(networks.weights(network, dtype), start=1):
        for letter, array in zip("Wb", arrays, strict=True):
            net.params[f"{letter}{number}"][...] = array
    return net


def sequential(network: str, dtype: str) -> nn.Sequential:
    """Return an `npconv.nn.Sequential`."""
    made: list[nn.Module] = []
    arrays = iter(networks.weights(network, dtype))
    flat = False
    for layer in networks.NETWORKS[network].layers:
        if layer.kind == "conv":
            conv = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, padding=layer.padding, dtype=dtype)
            conv.weight, conv.bias = next(arrays)
            made.append(conv)
        elif layer.kind == "dense":
            if not flat:
                made.append(nn.Flatten())
                flat = True
            dense = nn.Linear(layer.inputs, layer.outputs, dtype=dtype)
            weight, dense.bias = next(arrays)
            dense.weight = weight.T.copy()
            made.append(dense)
        elif layer.kind == "relu":
            made.append(nn.ReLU())
        elif layer.kind == "pool":
            made.append(nn.MaxPool2d(2))
        else:
            made.append(nn.Dropout(layer.ratio))
    return nn.Sequential(*made)


def sequential_step(network: str, net: nn.Sequential, dtype: str) -> Task:
    rule, loss = optimizer(network), nn.CrossEntropyLoss()
    x, t = networks.batch(network, dtype)
    net.needs_dx = False

    def step() -> None:
        loss(net(x), t)
        net.backward(loss.backward())
        rule.update(net.parameters(), net.grads)

    return step


def tasks(threads: int, dtype: str) -> Makers:
    npconv.set_num_threads(threads)

    def conv_forward(shape: Conv) -> Variants:
        x, weight, bias, _ = shape.arrays(dtype)
        return {"": lambda: npconv.conv2d(x, weight, bias, shape.stride, shape.padding)}

    def conv_backward(shape: Conv) -> Variants:
        x, weight, _, dy = shape.arrays(dtype)
        return {"": lambda: npconv.conv2d_backward(dy, x, weight, shape.stride, shape.padding)}

    def pool_forward(shape: Pool) -> Variants:
        x = shape.array(dtype)
        return {"": lambda: npconv.max_pool2d(x, shape.kernel, shape.stride, shape.padding)}

    def pool_backward(shape: Pool) -> Variants:
        x = shape.array(dtype)
        dy, indices = npconv.max_pool2d(x, shape.kernel, shape.stride, shape.padding, return_indices=True)
        return {"": lambda: npconv.max_pool2d_backward(dy, indices, x.shape)}

    def training_step(network: str) -> Variants:
        if network not in MODELS:
            return {"": sequential_step(network, sequential(network, dtype), dtype)}
        net, rule = model(network, dtype), optimizer(network)
        x, t = networks.batch(network, dtype)
        return {"": lambda: rule.update(net.params, net.gradient(x, t))}

    def inference(network: str) -> Variants:
        x, _ = networks.batch(network, dtype)
        if network not in MODELS:
            evaluated = sequential(network, dtype).eval()
            return {"": lambda: evaluated(x)}
        net = model(network, dtype)
        for layer in net.layers.values():
            if hasattr(layer, "dropout_ratio"):
                layer.dropout_ratio = 0.0  # the book scales in inference, the others in training: now by 1
        return {"": lambda: net.predict(x)}

    return {
        "conv forward": conv_forward,
        "conv backward": conv_backward,
        "pool forward": pool_forward,
        "pool backward": pool_backward,
        "operator forward": lambda subject: {"": forward(functional, subject, dtype)},
        "operator backward": lambda subject: {"": backward(functional, subject, dtype)},
        "training step": training_step,
        "inference": inference,
    }
