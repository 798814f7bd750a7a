"""Layers under PyTorch's names: its constructor arguments, initial weights and numbers.

    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 13 * 13, 10))
    model.summary((1, 28, 28))
    history = model.fit(x_train, t_train, epochs=2, validation_data=(x_test, t_test))

or, step by step, with any of `npconv.optimizers`::

    loss = nn.CrossEntropyLoss()
    value = loss(model(x), t)
    model.backward(loss.backward())
    optimizer.update(model.parameters(), model.grads)

A layer holds state only; it computes with `npconv.functional`.  Each ``backward`` takes the gradient of the loss with
respect to the result of the last ``forward``, returns the one with respect to its input, and leaves those of its
parameters in ``grads``.  Images are (N, C, H, W), and the dtype is that of input and weights.
"""

from npconv.nn.convolution import Conv2d, ConvTranspose2d
from npconv.nn.dense import CrossEntropyLoss, Dropout, Flatten, Linear, ReLU, Sigmoid, Softmax, Tanh
from npconv.nn.module import Module
from npconv.nn.normalization import BatchNorm2d, LocalResponseNorm
from npconv.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, MaxUnpool2d
from npconv.nn.sequential import Sequential, convnet

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "MaxUnpool2d",
    "Module",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "convnet",
]
