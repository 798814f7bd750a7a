"""Layers one after the other, and a builder of convolutional networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike

from npconv._state import as_rng
from npconv.fusing import fuse
from npconv.nn.convolution import Conv2d
from npconv.nn.dense import Flatten, Linear, ReLU
from npconv.nn.module import Array, Module
from npconv.nn.pooling import MaxPool2d
from npconv.nn.training import Classifier


class Sequential(Classifier):
    """Layers one after the other: each takes the result of the one before.

    Where `Conv2d`, `ReLU` and `MaxPool2d` follow each other (ReLU and pooling in either order), or `Conv2d` and `ReLU`
    alone, they are run as one operator, with bitwise the same results; `npconv.fusing.fuse` has the exceptions.

    Parameters
    ----------
    *layers : Module, or one dict from name to Module
        Without names they are called "0", "1", "2" and so on.

    Attributes
    ----------
    layers : dict from name to Module
        In order, and once and for all.
    needs_dx : bool
        False: `backward` stops at the first layer with weights, and returns None.
    """

    def __init__(self, *layers: Any) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            self.layers: dict[str, Module] = dict(layers[0])
        else:
            self.layers = {str(i): layer for i, layer in enumerate(layers)}
        for name, layer in self.layers.items():
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {name!r} is {layer!r}; needed is a layer of npconv.nn")
            if not isinstance(name, str) or not name or "." in name:  # "a.weight" is the weight of a
                raise ValueError(f"Sequential: a layer is called {name!r}; needed is a name without a dot")
        modules = list(self.modules())
        if len({id(module) for module in modules}) < len(modules):
            raise ValueError(
                "Sequential: a layer stands in two places; each needs one of its own, which keeps what backward needs"
            )
        super().__init__()
        self._steps: list[Any] = fuse(self, (Conv2d, ReLU, MaxPool2d))
        self._steps_back = self._steps[::-1]
        self._weighted = [(f"{name}.", layer) for name, layer in self.layers.items() if layer.parameters()]
        self._needs_dx = all(layer.needs_dx for layer in self)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers.values())

    @overload
    def __getitem__(self, index: int | str) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | str | slice) -> Module:
        """Return a layer by its place or its name; for a slice, those layers (and their names) as a `Sequential`."""
        if isinstance(index, str):
            return self.layers[index]
        if isinstance(index, slice):
            return Sequential(dict(list(self.layers.items())[index]))
        return list(self.layers.values())[index]

    def modules(self) -> Iterator[Module]:
        """Yield this module, its layers, and what they are made of."""
        yield self
        for layer in self:
            yield from layer.modules()

    # ---- parameters: the layers', each with the layer's name and a dot before its own ----

    def parameters(self) -> dict[str, Array]:
        """Return what an optimizer changes, as ``"0.weight"``: the weights themselves, no copies."""
        return {name + key: array for name, layer in self._weighted for key, array in layer.parameters().items()}

    def buffers(self) -> dict[str, Array]:
        """Return what belongs to the layers, but is not trained, as ``"1.running_mean"``: itself, no copies."""
        return {f"{name}.{key}": array for name, layer in self.layers.items() for key, array in layer.buffers().items()}

    def _state(self) -> dict[str, Array]:
        return {f"{name}.{key}": array for name, layer in self.layers.items() for key, array in layer._state().items()}

    # ---- forward and backward ----

    @property
    def needs_dx(self) -> bool:
        return self._needs_dx

    @needs_dx.setter
    def needs_dx(self, needed: bool) -> None:
        self._needs_dx = needed
        for layer in self:
            layer.needs_dx = needed
            if layer.parameters():
                break

    def forward(self, x: Any) -> Any:
        """Return what the last layer makes of what the others make of `x`."""
        for step in self._steps:
            x = step.forward(x)
        return x

    def backward(self, dy: Any) -> Any:
        """Return dx, or None without `needs_dx`; set `grads`, the layers' under the names of `parameters`."""
        for step in self._steps_back:
            dy = step.backward(dy)
            if dy is None:  # the first layer with weights, without needs_dx
                break
        self.grads = {name + key: grad for name, layer in self._weighted for key, grad in layer.grads.items()}
        return dy

    # ---- looking into it ----

    def activations(self, x: Array) -> dict[str, Array]:
        """Return every layer's result by the layer's name, each on its own (not fused) and in eval mode.

        `x` is cast to the dtype of the parameters.  The network's mode, running statistics, and what it keeps for
        `backward` stay as they are.
        """
        results = {}
        x = np.asarray(x).astype(self._dtype(), copy=False)
        for name, layer in self.layers.items():
            x = results[name] = _alone(layer).forward(x)
        return results

    def summary(self, input_shape: Sequence[int]) -> str:
        """Print a table of the layers with the shapes of their results and their numbers, and return it.

        Parameters
        ----------
        input_shape : tuple of int
            Of one sample: (C, H, W).  Nothing is computed: a batch of no samples passes through the layers.

        Raises
        ------
        ValueError
            If a layer does not take what the one before makes: names it.
        """
        rows = [("Layer (type)", "Output Shape", "Param #")]
        x = np.empty((0, *input_shape), self._dtype())
        for name, layer in self.layers.items():
            try:
                y = _alone(layer).forward(x)
            except ValueError as error:
                shape = _without_batch(x)
                raise ValueError(f"summary: layer {name} ({type(layer).__name__}) takes no {shape}: {error}") from None
            x = y[0] if isinstance(y, tuple) else y
            rows.append((f"{name} ({type(layer).__name__})", _without_batch(x), f"{_size(layer):,}"))

        first, second, third = (max(len(row[i]) for row in rows) + 2 for i in range(3))
        lines = [f"{layer:<{first}}{shape:<{second}}{number:>{third}}" for layer, shape, number in rows]
        trainable = sum(array.size for array in self.parameters().values())
        total = sum(_size(layer) for layer in self)
        rule = "=" * (first + second + third)
        text = "\n".join([
            lines[0], rule, *lines[1:], rule,
            f"Total params: {total:,}",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {total - trainable:,}",
        ])  # fmt: skip
        print(text)
        return text


def convnet(
    input_shape: Sequence[int] = (3, 32, 32),
    conv: Sequence[Sequence[int]] = ((32, 32), (64, 64)),
    hidden: Sequence[int] = (128,),
    classes: int = 10,
    *,
    kernel_size: int = 3,
    pool: int | None = 2,
    rng: Any = None,
    dtype: DTypeLike = np.float32,
) -> Sequential:
    """Build the usual convolutional network::

        INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC

    The defaults, for example (N = 2, M = 2, K = 1)::

        3x32x32 -> CONV 32 -> RELU -> CONV 32 -> RELU -> POOL    32 channels of 16x16
                -> CONV 64 -> RELU -> CONV 64 -> RELU -> POOL    64 channels of 8x8
                -> FC 128 -> RELU                                128 numbers
                -> FC 10                                         a score for each class

    Parameters
    ----------
    input_shape : (C, H, W)
    conv : sequence of sequences of int
        M groups of N output channels: ``[[32, 32], [64, 64]]``.  Each group ends with a pooling.
    hidden : sequence of int
        The sizes of the K hidden fully connected layers; may be empty.
    classes : int
    kernel_size : int
        Of all convolutions.  Their padding is "same": only pooling changes the size of an image.
    pool : int or None
        Max pooling takes one pixel of each ``pool x pool``; None: there is none.
    rng, dtype
        As the layers have them.

    Raises
    ------
    ValueError
        If the image is too small for so many poolings.
    """
    rng = None if rng is None else as_rng(rng)
    channels, height, width = input_shape
    layers: list[Module] = []
    for group in conv:
        for filters in group:
            layers += [Conv2d(channels, filters, kernel_size, padding="same", rng=rng, dtype=dtype), ReLU()]
            channels = filters
        if pool is not None:
            layers.append(MaxPool2d(pool))
            height, width = height // pool, width // pool
    if height < 1 or width < 1:
        raise ValueError(f"convnet: images of {input_shape} are too small for {len(conv)} poolings by {pool}")

    layers.append(Flatten())
    features = channels * height * width
    for neurons in hidden:
        layers += [Linear(features, neurons, rng=rng, dtype=dtype), ReLU()]
        features = neurons
    layers.append(Linear(features, classes, rng=rng, dtype=dtype))
    return Sequential(*layers)


def _alone(layer: Module) -> Module:
    """Return a layer with the same weights, in eval mode, whose `forward` leaves no trace in the given one."""
    if isinstance(layer, Sequential):
        twin: Module = Sequential({name: _alone(inner) for name, inner in layer.layers.items()})
    else:
        twin = copy.copy(layer)
    twin.training = False
    return twin


def _size(layer: Module) -> int:
    """Return how many numbers a layer has: weights and running statistics."""
    return sum(array.size for array in layer._state().values() if array.dtype.kind == "f")


def _without_batch(x: Array) -> str:
    return str((None, *x.shape[1:]))
