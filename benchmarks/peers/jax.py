"""JAX, compiled by XLA for the CPU, with images in either layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from shapes import Conv, Pool

from peers import networks
from peers.rows import Makers, Task, Variants

FILTERS = {"NCHW": "OIHW", "NHWC": "HWIO"}


def conv2d(layout: str, x: Any, weight: Any, bias: Any, stride: int, padding: int) -> Any:
    pads = [(padding, padding)] * 2
    y = lax.conv_general_dilated(x, weight, (stride, stride), pads, dimension_numbers=(layout, FILTERS[layout], layout))
    return y + (bias[:, None, None] if layout == "NCHW" else bias)


def max_pool2d(layout: str, x: Any, kernel: int, stride: int, padding: int) -> Any:
    def spread(value: Any, rest: Any) -> tuple[Any, ...]:
        return (rest, rest, value, value) if layout == "NCHW" else (rest, value, value, rest)

    pads = spread((padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, spread(kernel, 1), spread(stride, 1), pads)


def images(layout: str, array: Any) -> Any:
    return jnp.asarray(array if layout == "NCHW" else array.transpose(0, 2, 3, 1))


def filters(layout: str, array: Any) -> Any:
    return jnp.asarray(array if layout == "NCHW" else array.transpose(2, 3, 1, 0))


def variants(make: Callable[[str], Task]) -> Variants:
    """Return what `make` makes of each layout, waiting for the result where JAX would return at once."""

    def waiting(run: Task) -> Task:
        return lambda: jax.block_until_ready(run())

    return {layout: waiting(make(layout)) for layout in FILTERS}


def backward(function: Callable[..., Any], inputs: tuple[Any, ...], dy: Any) -> Task:
    """Return the gradients alone: what they need of the forward pass is computed here, outside of what is timed."""
    _, pull = jax.vjp(function, *inputs)
    run = jax.jit(lambda pull, dy: pull(dy))
    return lambda: run(pull, dy)


def network_function(network: str, layout: str, training: bool) -> Callable[..., Any]:
    layers = networks.NETWORKS[network].layers

    def apply(params: Any, x: Any, key: Any = None) -> Any:
        index = 0
        for layer in layers:
            if layer.kind == "relu":
                x = jax.nn.relu(x)
            elif layer.kind == "pool":
                x = max_pool2d(layout, x, 2, 2, 0)
            elif layer.kind == "dropout":
                if training:
                    key, used = jax.random.split(key)
                    x = jnp.where(jax.random.bernoulli(used, 1 - layer.ratio, x.shape), x / (1 - layer.ratio), 0)
            else:
                weight, bias = params[index]
                index += 1
                if layer.kind == "conv":
                    x = conv2d(layout, x, weight, bias, 1, layer.padding)
                else:
                    x = x.reshape(len(x), -1) @ weight + bias
        return x

    return apply


def adam(lr: float, params: Any, grads: Any, kept: Any, count: Any) -> tuple[Any, Any]:
    """Return the new weights and what is kept for the next update."""
    rate = lr * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), kept[0], grads)
    v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), kept[1], grads)
    params = jax.tree.map(lambda p, m, v: (p - rate * m / (jnp.sqrt(v) + 1e-7)).astype(p.dtype), params, m, v)
    return params, (m, v)


def sgd(lr: float, momentum: float, params: Any, grads: Any, kept: Any, count: Any) -> tuple[Any, Any]:
    """Return the new weights and what is kept for the next update."""
    v = jax.tree.map(lambda v, g: momentum * v - lr * g, kept[0], grads)
    return jax.tree.map(jnp.add, params, v), (v,)


def tasks(threads: int, dtype: str) -> Makers:
    jax.config.update("jax_enable_x64", True)  # what is given in float32 stays float32

    def conv(layout: str, shape: Conv) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        x, weight, bias, dy = shape.arrays(dtype)
        inputs = images(layout, x), filters(layout, weight), jnp.asarray(bias)
        return lambda x, w, b: conv2d(layout, x, w, b, shape.stride, shape.padding), inputs, images(layout, dy)

    def pool(layout: str, shape: Pool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        x = images(layout, shape.array(dtype))
        return lambda x: max_pool2d(layout, x, shape.kernel, shape.stride, shape.padding), (x,)

    def forward(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Task:
        run = jax.jit(function)
        return lambda: run(*inputs)

    def pool_backward(shape: Pool) -> Variants:
        def make(layout: str) -> Task:
            function, inputs = pool(layout, shape)
            return backward(function, inputs, jax.jit(function)(*inputs))

        return variants(make)

    def params_of(network: str, layout: str) -> Any:
        return [tuple(map(jnp.asarray, arrays)) for arrays in networks.weights(network, dtype, layout)]

    def training_step(network: str) -> Variants:
        def make(layout: str) -> Task:
            apply = network_function(network, layout, training=True)
            kind, lr, momentum = networks.NETWORKS[network].optimizer
            rule = partial(adam, lr) if kind == "Adam" else partial(sgd, lr, momentum)
            x, t = networks.batch(network, dtype)
            data = images(layout, x), jnp.asarray(t)

            def loss(params: Any, x: Any, t: Any, key: Any) -> Any:
                scores = jax.nn.log_softmax(apply(params, x, key))
                return -jnp.take_along_axis(scores, t[:, None], axis=1).mean()

            def update(state: Any, x: Any, t: Any) -> Any:
                params, kept, count, key = state
                key, used = jax.random.split(key)
                grads = jax.grad(loss)(params, x, t, used)
                return *rule(params, grads, kept, count + 1), count + 1, key

            # Donated: the weights are updated in place.  "rbg" draws faster than JAX's default.
            step = jax.jit(update, donate_argnums=0)
            params = params_of(network, layout)
            kept = tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(2 if kind == "Adam" else 1))
            state = params, kept, jnp.zeros((), dtype), jax.random.key(0, impl="rbg")

            def run() -> Any:
                nonlocal state
                state = step(state, *data)
                return state

            return run

        return variants(make)

    def inference(network: str) -> Variants:
        def make(layout: str) -> Task:
            inputs = params_of(network, layout), images(layout, networks.batch(network, dtype)[0])
            return forward(network_function(network, layout, training=False), inputs)

        return variants(make)

    return {
        "conv forward": lambda shape: variants(lambda layout: forward(*conv(layout, shape)[:2])),
        "conv backward": lambda shape: variants(lambda layout: backward(*conv(layout, shape))),
        "pool forward": lambda shape: variants(lambda layout: forward(*pool(layout, shape))),
        "pool backward": pool_backward,
        "training step": training_step,
        "inference": inference,
    }
