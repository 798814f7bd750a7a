"""Keras on TensorFlow: single operators in TensorFlow, networks in Keras; NHWC, the only layout of all its kernels."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from shapes import Conv, Pool

from peers import networks
from peers.rows import Makers, Task, Variants


def images(array: Any) -> Any:
    return tf.constant(array.transpose(0, 2, 3, 1))


def filters(array: Any) -> Any:
    return tf.constant(array.transpose(2, 3, 1, 0))


def conv2d(x: Any, weight: Any, bias: Any, shape: Conv) -> Any:
    pads = [[0, 0], [shape.padding] * 2, [shape.padding] * 2, [0, 0]]
    return tf.nn.bias_add(tf.nn.conv2d(x, weight, shape.stride, pads), bias)


def max_pool2d(x: Any, shape: Pool) -> Any:
    pads = [[0, 0], [shape.padding] * 2, [shape.padding] * 2, [0, 0]]
    return tf.nn.max_pool2d(x, shape.kernel, shape.stride, pads if shape.padding else "VALID")


def conv_forward(shape: Conv) -> Variants:
    x, weight, bias, _ = shape.arrays()
    inputs = images(x), filters(weight), tf.constant(bias)
    run = tf.function(lambda x, weight, bias: conv2d(x, weight, bias, shape))
    return {"NHWC": lambda: run(*inputs)}


def conv_backward(shape: Conv) -> Variants:
    x, weight, bias, dy = shape.arrays()
    inputs = images(x), filters(weight), tf.constant(bias), images(dy)

    @tf.function  # type: ignore[untyped-decorator, unused-ignore]
    def run(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        # The forward pass is traced and then left out, because no gradient needs its result.
        with tf.GradientTape() as tape:
            tape.watch([x, weight, bias])
            y = conv2d(x, weight, bias, shape)
        return tape.gradient(y, [x, weight, bias], dy)

    return {"NHWC": lambda: run(*inputs)}


def pool_forward(shape: Pool) -> Variants:
    x = images(shape.array())
    run = tf.function(lambda x: max_pool2d(x, shape))
    return {"NHWC": lambda: run(x)}


def pool_backward(shape: Pool) -> Variants:
    x = images(shape.array())
    y = max_pool2d(x, shape)
    pads = [0, 0, *[shape.padding] * 4, 0, 0]
    options = {"padding": "EXPLICIT", "explicit_paddings": pads} if shape.padding else {"padding": "VALID"}
    # The operator itself, because the tape would run the forward pass again: this gradient needs its result.
    sizes = {"ksize": [1, shape.kernel, shape.kernel, 1], "strides": [1, shape.stride, shape.stride, 1]}
    run = tf.function(lambda x, y, dy: tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **sizes, **options))
    return {"NHWC": lambda: run(x, y, y)}


def model(network: str) -> Any:
    layers, _, (channels, *size), _ = networks.NETWORKS[network]
    made: list[Any] = [keras.Input((*size, channels))]
    flat = False
    for layer in layers:
        if layer.kind == "conv":
            if layer.padding == 2:
                made.append(keras.layers.ZeroPadding2D(2))
            padding = "same" if layer.padding == 1 else "valid"
            made.append(keras.layers.Conv2D(layer.outputs, layer.kernel, padding=padding))
        elif layer.kind == "dense":
            if not flat:
                made.append(keras.layers.Flatten())
                flat = True
            made.append(keras.layers.Dense(layer.outputs))
        elif layer.kind == "relu":
            made.append(keras.layers.ReLU())
        elif layer.kind == "pool":
            made.append(keras.layers.MaxPooling2D())
        else:
            made.append(keras.layers.Dropout(layer.ratio))
    net = keras.Sequential(made)
    net.set_weights([array for arrays in networks.weights(network, "float32", "NHWC") for array in arrays])
    return net


def optimizer(network: str) -> Any:
    kind, lr, momentum = networks.NETWORKS[network].optimizer
    return keras.optimizers.Adam(lr) if kind == "Adam" else keras.optimizers.SGD(lr, momentum)


def training_step(network: str) -> Variants:
    x, t = networks.batch(network, "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = images(x), tf.constant(t)

    def keras_own(xla: bool) -> Task:
        net = model(network)
        net.compile(optimizer=optimizer(network), loss=loss, jit_compile=xla)
        return lambda: net.train_on_batch(*data)

    def function(xla: bool) -> Task:
        net, rule = model(network), optimizer(network)
        rule.build(net.trainable_variables)

        @tf.function(jit_compile=xla)  # type: ignore[untyped-decorator, unused-ignore]
        def step(x: Any, t: Any) -> Any:
            with tf.GradientTape() as tape:
                value = loss(t, net(x, training=True))
            grads = tape.gradient(value, net.trainable_variables)
            rule.apply_gradients(zip(grads, net.trainable_variables, strict=True))
            return value

        return lambda: step(*data)

    return {
        "train_on_batch": keras_own(False),
        "train_on_batch, XLA": keras_own(True),
        "tf.function": function(False),
        "tf.function, XLA": function(True),
    }


def inference(network: str) -> Variants:
    x = images(networks.batch(network, "float32")[0])

    def function(xla: bool) -> Task:
        net = model(network)
        run = tf.function(lambda x: net(x, training=False), jit_compile=xla)
        return lambda: run(x)

    return {"tf.function": function(False), "tf.function, XLA": function(True)}


def tasks(threads: int, dtype: str) -> Makers:
    if dtype != "float32":
        return {}
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return {
        "conv forward": conv_forward,
        "conv backward": conv_backward,
        "pool forward": pool_forward,
        "pool backward": pool_backward,
        "training step": training_step,
        "inference": inference,
    }
