"""npconv itself."""

from __future__ import annotations

from typing import Any

from shapes import Conv, Pool

import npconv
from npconv import models, optimizers
from peers import networks
from peers.rows import Makers, Variants


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

    def build(network: str) -> Any:
        net = getattr(models, network)(rng=1, dtype=dtype)
        for number, arrays in enumerate(networks.weights(network, dtype), start=1):
            for letter, array in zip("Wb", arrays, strict=True):
                net.params[f"{letter}{number}"][...] = array
        return net

    def training_step(network: str) -> Variants:
        net, optimizer = build(network), optimizers.Adam()
        x, t = networks.batch(dtype)
        return {"": lambda: optimizer.update(net.params, net.gradient(x, t))}

    def inference(network: str) -> Variants:
        net, (x, _) = build(network), networks.batch(dtype)
        for layer in net.layers.values():
            if hasattr(layer, "dropout_ratio"):
                layer.dropout_ratio = 0.0  # the book scales in inference, the others in training: now by 1
        return {"": lambda: net.predict(x)}

    return {
        "conv forward": conv_forward,
        "conv backward": conv_backward,
        "pool forward": pool_forward,
        "pool backward": pool_backward,
        "training step": training_step,
        "inference": inference,
    }
