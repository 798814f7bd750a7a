"""The convolutional networks of the book: `SimpleConvNet` (chapter 7) and `DeepConvNet` (chapter 8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npconv import functional as F
from npconv import layers as L
from npconv._state import as_rng, check_params, read_npz, rng_state, set_rng_state, write_npz
from npconv.fusing import ConvolutionReluPooling, fuse

__all__ = ["DeepConvNet", "SimpleConvNet"]

Array = NDArray[Any]


class _ConvNet:
    """What both networks share: everything but their structure, which a subclass adds layer by layer.

    Attributes
    ----------
    params : dict from "W1", "b1", "W2", ... to ndarray
        The weights.  The layers hold the same arrays; change them in place.
    layers : dict from name to layer, in order
    last_layer : SoftmaxWithLoss
    dtype : numpy.dtype
        Of the weights, and of everything that is computed with them.
    """

    def __init__(self, input_dim: Sequence[int], rng: Any, dtype: DTypeLike) -> None:
        # None stays None: Dropout layers then follow the global numpy.random, and can be copied.
        self._rng = None if rng is None else as_rng(rng)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {self.dtype}")
        self.input_dim = tuple(input_dim)
        if len(self.input_dim) != 3 or min(self.input_dim) < 1:
            raise ValueError(f"input_dim must be (channels, height, width), got {input_dim}")
        self.params: dict[str, Array] = {}
        self.layers: dict[str, Any] = {}
        self.last_layer = L.SoftmaxWithLoss()
        self._run: list[Any] = []  # the layers as `predict` has last run them
        self._shape: tuple[int, ...] = self.input_dim  # of one sample behind the layers added so far

    def _add(self, name: str, layer: Any) -> None:
        self.layers[name] = layer

    def _weighted(self) -> list[Any]:
        """Return the layers of W1, W2, ..."""
        return [layer for layer in self.layers.values() if hasattr(layer, "dW")]

    def _add_conv(self, name: str, param: Mapping[str, int], std: float | str) -> None:
        """Add a convolution whose weights are drawn with standard deviation `std` (or "he")."""
        C, H, W = self._shape
        missing = {"filter_num", "filter_size", "pad", "stride"} - param.keys()
        if missing:
            raise ValueError(f"{name}: conv_param {dict(param)} lacks {sorted(missing)}")
        size, stride, pad = param["filter_size"], param["stride"], param["pad"]
        weights = self._draw((param["filter_num"], C, size, size), C * size * size, std)
        layer = L.Convolution(*weights, stride, pad)
        layer.needs_dx = bool(self.layers)  # nobody reads the gradient of the images
        self._add(name, layer)
        oh, ow = (self._output_size(name, size_in, size, stride, pad) for size_in in (H, W))
        self._shape = (param["filter_num"], oh, ow)

    def _add_pool(self, name: str) -> None:
        """Add max pooling over 2x2; an odd last row or column is left out, as in the book."""
        self._add(name, L.Pooling(pool_h=2, pool_w=2, stride=2))
        C, H, W = self._shape
        self._shape = (C, self._output_size(name, H, 2, 2, 0), self._output_size(name, W, 2, 2, 0))

    def _add_affine(self, name: str, size: int, std: float | str) -> None:
        length = int(np.prod(self._shape))
        layer = L.Affine(*self._draw((length, size), length, std))
        self._add(name, layer)
        self._shape = (size,)

    def _draw(self, shape: tuple[int, ...], fan_in: int, std: float | str) -> tuple[Array, Array]:
        """Draw the next weights W and make b; `std` "he" is sqrt(2 / fan_in)."""
        number = len(self._weighted()) + 1
        deviation = np.sqrt(2 / fan_in) if std == "he" else float(std)
        W = (deviation * as_rng(self._rng).standard_normal(shape)).astype(self.dtype)
        b = np.zeros(shape[0] if len(shape) == 4 else shape[1], self.dtype)
        self.params[f"W{number}"], self.params[f"b{number}"] = W, b
        return W, b

    def _output_size(self, name: str, size_in: int, size: int, stride: int, pad: int) -> int:
        try:
            return int(F.conv_output_size(size_in, size, stride, pad))
        except ValueError as error:
            raise ValueError(
                f"{name} does not fit: images of input_dim {self.input_dim} are {self._shape} there. "
                f"Use larger images, smaller filters or more pad ({error})"
            ) from None

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Return the scores before softmax, shape (N, classes), in the network's dtype.

        Parameters
        ----------
        x : ndarray, shape (N, *input_dim)
            Images, cast to the network's dtype if they have another.
        train_flg : bool
            True drops out at random, in networks that do, and keeps all that backward needs.
        """
        x = np.asarray(x)
        if x.shape[1:] != self.input_dim:
            raise ValueError(f"x has shape {x.shape}, needed is (N, {', '.join(map(str, self.input_dim))})")
        x = x.astype(self.dtype, copy=False)
        self._run = self._order()
        for layer in self._run:
            modal = isinstance(layer, L.Dropout | ConvolutionReluPooling)
            x = layer.forward(x, train_flg) if modal else layer.forward(x)
        return x

    def _order(self) -> list[Any]:
        """Return the layers in the order in which they are run.

        That is their order in `layers`, but a convolution is run as one with ReLU behind it, and with
        max pooling behind both.  That gives the same bits, forward and backward, and the largest arrays
        of the network, those between convolution and pooling, never leave the cache.
        """
        return fuse(self.layers.values(), (L.Convolution, L.Relu, L.Pooling))

    def loss(self, x: Array, t: Array) -> Any:
        """Return the mean cross entropy in training mode; `t` holds labels (N,) or one-hot rows."""
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x: Array, t: Array, batch_size: int = 100) -> float:
        """Return the share of images whose highest score is at their label.

        Works through `batch_size` images at a time, down to the last one (the book leaves out an
        incomplete last batch, but counts its images).

        Raises
        ------
        ValueError
            If `x` and `t` differ in length or are empty.
        """
        if len(x) != len(t) or len(x) == 0 or batch_size < 1:
            raise ValueError(
                f"accuracy: x has {len(x)} images, t {len(t)} labels, batch_size is {batch_size}; "
                "needed are as many labels as images, and at least one image per batch"
            )
        t = np.asarray(t)
        labels = t if t.ndim == 1 else t.argmax(axis=1)
        correct = 0
        for i in range(0, len(x), batch_size):
            y = self.predict(x[i : i + batch_size]).argmax(axis=1)
            correct += int(np.count_nonzero(y == labels[i : i + batch_size]))
        return correct / len(x)

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the gradients of `loss` for all `params`, by backpropagation.

        ``last_layer.loss`` is the loss then, ``last_layer.y`` the probabilities.
        """
        self.loss(x, t)
        dout = self.last_layer.backward()
        for layer in reversed(self._run):  # as `loss` has just run them
            dout = layer.backward(dout)

        grads = {}
        for i, layer in enumerate(self._weighted(), start=1):
            grads[f"W{i}"], grads[f"b{i}"] = layer.dW, layer.db
        return grads

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the gradients of `loss` for all `params` by central differences, as a check.

        Each weight costs two forward passes, so take a small network.  It needs float64.  All passes
        drop out the same elements, those of a call of `gradient` in place of this one.
        """
        dropouts = [layer for layer in self.layers.values() if isinstance(layer, L.Dropout)]
        states = [rng_state(layer.rng) for layer in dropouts]

        def loss() -> float:
            for layer, state in zip(dropouts, states, strict=True):
                set_rng_state(layer.rng, state)
            return float(self.loss(x, t))

        return {name: _numerical_gradient(loss, param) for name, param in self.params.items()}

    def save_params(self, file_name: str | os.PathLike[str] = "params.npz") -> None:
        """Write `params` to an ``.npz`` file, whole or not at all (a temporary file is renamed)."""
        write_npz(file_name, self.params)

    def load_params(self, file_name: str | os.PathLike[str] = "params.npz") -> None:
        """Fill `params` from a file that `save_params` wrote.

        Raises
        ------
        ValueError
            If the file is damaged or is of another network: names the file, the parameter, what was
            found and what is needed.  The network is unchanged then.
        """
        found = read_npz(file_name)
        check_params(os.fspath(file_name), found, self.params)
        for name, param in self.params.items():
            param[...] = found[name]
        for i, layer in enumerate(self._weighted(), start=1):
            layer.W, layer.b = self.params[f"W{i}"], self.params[f"b{i}"]


class SimpleConvNet(_ConvNet):
    """conv - relu - pool - affine - relu - affine - softmax: the book's network of section 7.5.

    Parameters
    ----------
    input_dim : (channels, height, width)
    conv_param : dict of "filter_num", "filter_size", "pad" and "stride"
    hidden_size, output_size : int
        Neurons of the two affine layers.
    weight_init_std : float or "he"
        Standard deviation of the initial weights; "he" is He's, sqrt(2 / inputs of a neuron) in each
        layer.  The book's 0.01 starts slowly: about 0.96 on MNIST after an epoch of Adam, He's 0.98.
    rng : None, int or numpy.random.Generator
        Where they are drawn.  None: from the global ``numpy.random``, the book's numbers after the
        same ``np.random.seed``.
    dtype : float32 or float64
        Of the weights and everything computed with them.

    Attributes
    ----------
    params : dict of "W1", "b1" (convolution), "W2", "b2", "W3", "b3" (affine)
    layers : dict of "Conv1", "Relu1", "Pool1", "Affine1", "Relu2", "Affine2"
    last_layer : SoftmaxWithLoss
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (1, 28, 28),
        conv_param: Mapping[str, int] = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1},
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float | Literal["he"] = 0.01,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__(input_dim, rng, dtype)
        if isinstance(weight_init_std, str) and weight_init_std != "he":
            raise ValueError(f"weight_init_std must be a number or 'he', got {weight_init_std!r}")
        self._add_conv("Conv1", conv_param, weight_init_std)
        self._add("Relu1", L.Relu())
        self._add_pool("Pool1")
        self._add_affine("Affine1", hidden_size, weight_init_std)
        self._add("Relu2", L.Relu())
        self._add_affine("Affine2", output_size, weight_init_std)


class DeepConvNet(_ConvNet):
    """The book's network of section 8.1, over 99 % on MNIST: three times (conv - relu - conv - relu
    - pool), then affine - relu - dropout - affine - dropout - softmax.

    Parameters
    ----------
    input_dim : (channels, height, width)
    conv_param_1, ..., conv_param_6 : dict of "filter_num", "filter_size", "pad" and "stride"
    hidden_size, output_size : int
        Neurons of the two affine layers.
    dropout_ratio : float
        Share of the neurons dropped in training; 0.5 in the book.
    rng : None, int or numpy.random.Generator
        Where weights and dropout are drawn.  None: from the global ``numpy.random``, the book's
        numbers after the same ``np.random.seed``.
    dtype : float32 or float64
        Of the weights and everything computed with them.

    Attributes
    ----------
    params : dict of "W1", "b1", ..., "W8", "b8"
        Drawn with He's standard deviation, sqrt(2 / inputs of a neuron).
    layers : dict of "Conv1", "Relu1", "Conv2", "Relu2", "Pool1", ..., "Affine2", "Dropout2"
        By name, where the book has a list.
    last_layer : SoftmaxWithLoss
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] = {"filter_num": 16, "filter_size": 3, "pad": 1, "stride": 1},
        conv_param_2: Mapping[str, int] = {"filter_num": 16, "filter_size": 3, "pad": 1, "stride": 1},
        conv_param_3: Mapping[str, int] = {"filter_num": 32, "filter_size": 3, "pad": 1, "stride": 1},
        conv_param_4: Mapping[str, int] = {"filter_num": 32, "filter_size": 3, "pad": 2, "stride": 1},
        conv_param_5: Mapping[str, int] = {"filter_num": 64, "filter_size": 3, "pad": 1, "stride": 1},
        conv_param_6: Mapping[str, int] = {"filter_num": 64, "filter_size": 3, "pad": 1, "stride": 1},
        hidden_size: int = 50,
        output_size: int = 10,
        *,
        dropout_ratio: float = 0.5,
        rng: Any = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__(input_dim, rng, dtype)
        conv_params = (conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6)
        for i, conv_param in enumerate(conv_params, start=1):
            self._add_conv(f"Conv{i}", conv_param, "he")
            self._add(f"Relu{i}", L.Relu())
            if i % 2 == 0:
                self._add_pool(f"Pool{i // 2}")
        self._add_affine("Affine1", hidden_size, "he")
        self._add("Relu7", L.Relu())
        self._add("Dropout1", L.Dropout(dropout_ratio, self._rng))
        self._add_affine("Affine2", output_size, "he")
        self._add("Dropout2", L.Dropout(dropout_ratio, self._rng))


def _numerical_gradient(f: Callable[[], float], x: Array) -> Array:
    """Central difference of `f` for each element of `x`, which `f` reads (book, section 4.3)."""
    h = 1e-4
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + h
        above = f()
        x[index] = value - h
        below = f()
        x[index] = value
        gradient[index] = (above - below) / (2 * h)
    return gradient
