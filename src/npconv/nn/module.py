"""What all layers of `npconv.nn` have in common: weights and their gradients by name, and a mode."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npconv._state import as_rng, check_params, read_npz, write_npz

Array = NDArray[Any]
Self = TypeVar("Self", bound="Module")


class Module(ABC):
    """A layer, or several: something with `forward`, `backward`, weights and a mode.

    A layer of your own is a subclass with `forward` and `backward`.  If it has weights, it names their attributes in
    `parameter_names`, and its `backward` puts their gradients into `grads`.

    Attributes
    ----------
    grads : dict from name to ndarray
        The gradient of each parameter, of the last `forward`.  Each `backward` makes new ones.
    training : bool
        The mode, see `train` and `eval`.
    needs_dx : bool
        Set it to False on the first layer of a network, whose dx nobody reads: its `backward` then returns None and is
        the faster for it.  Layers without weights take no notice.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()
    buffer_names: ClassVar[tuple[str, ...]] = ()
    training: bool = True
    needs_dx: bool = True

    def __init__(self) -> None:
        self.grads: dict[str, Any] = {}

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result, and keep what `backward` needs."""

    @abstractmethod
    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Return dx for dy, the gradient of the loss with respect to the last result; set `grads`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return ``forward(...)``."""
        return self.forward(*args, **kwargs)

    def parameters(self) -> dict[str, Array]:
        """Return what an optimizer changes: the weights themselves, no copies."""
        return self._arrays(self.parameter_names)

    def buffers(self) -> dict[str, Array]:
        """Return the arrays that belong to the layer, but are not trained (running means): themselves, no copies."""
        return self._arrays(self.buffer_names)

    def _arrays(self, names: tuple[str, ...]) -> dict[str, Array]:
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def _state(self) -> dict[str, Array]:
        """Return parameters and buffers: themselves, no copies."""
        return {**self.parameters(), **self.buffers()}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters and buffers, under PyTorch's names and in its order.

        They are copies, as those of the optimizers are, so that a state which is kept stays as it is.
        ``{name: torch.from_numpy(array) for name, array in model.state_dict().items()}`` is what
        ``torch.nn.Module.load_state_dict`` takes.
        """
        return {name: array.copy() for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Fill parameters and buffers, in place, from a dict that `state_dict` returned, PyTorch's too.

        Parameters
        ----------
        state : dict from name to ndarray or (CPU) torch.Tensor

        Raises
        ------
        ValueError
            If a name is missing or unknown, or an array has another shape: names it.  Nothing has been changed then.
        """
        self._load(state, f"{type(self).__name__}.load_state_dict")

    def _load(self, state: Mapping[str, Any], source: str) -> None:
        own = self._state()
        missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
        if missing or unknown:
            raise ValueError(f"{source}: missing are {missing}, unknown are {unknown}")
        found = {name: np.asarray(state[name]) for name in own}
        check_params(source, found, own)
        for name, array in own.items():
            array[...] = found[name]

    def save_params(self, file_name: str | os.PathLike[str] = "params.npz") -> None:
        """Write `state_dict` to an ``.npz`` file, whole or not at all (a temporary file is renamed)."""
        write_npz(file_name, self._state())

    def load_params(self, file_name: str | os.PathLike[str] = "params.npz") -> None:
        """Read what `save_params` wrote; raises as `load_state_dict` does, naming the file."""
        self._load(read_npz(file_name), os.fspath(file_name))

    def train(self: Self, mode: bool = True) -> Self:
        """Go into training mode: dropout drops, batch normalization takes the batch's statistics.  Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Leave training mode: dropout passes everything, batch normalization takes the running statistics."""
        return self.train(False)

    def modules(self) -> Iterator[Module]:
        """Yield this module, and those it is made of."""
        yield self


class WeightedModule(Module):
    """A layer with ``weight`` and ``bias``, which start as in PyTorch.

    Both are drawn evenly from ``-1/sqrt(fan_in)`` to ``1/sqrt(fan_in)``, where fan_in is the number of weights that
    belong to one entry of the weight's first axis.  (That is Kaiming He's uniform initialisation with a = sqrt(5).)

    Parameters
    ----------
    shape : tuple of int
        Of the weight.
    outputs : int
        Length of the bias.
    bias : bool
        Whether there is one; else it is None.
    rng : None, int or numpy.random.Generator
        Where they are drawn; None: from the global ``numpy.random``.
    dtype : float32 or float64
    """

    parameter_names = "weight", "bias"

    def __init__(self, shape: tuple[int, ...], outputs: int, bias: bool, rng: Any, dtype: DTypeLike) -> None:
        super().__init__()
        dtype, rng = float_dtype(self, dtype), as_rng(rng)
        bound = 1 / math.sqrt(math.prod(shape[1:]))

        def draw(*shape: int) -> Array:
            numbers: Array = rng.random(shape)
            numbers *= 2 * bound  # in place: AlexNet's largest weight is 300 MB here
            numbers -= bound
            return numbers.astype(dtype, copy=False)

        self.weight: Array = draw(*shape)
        self.bias: Array | None = draw(outputs) if bias else None

    @property
    def weights(self) -> tuple[Array, Array | None]:
        """Weight and bias, in the order of the operators."""
        return self.weight, self.bias

    def set_gradients(self, dweight: Any, dbias: Any) -> None:
        """Fill `grads`."""
        self.grads = {"weight": dweight} if self.bias is None else {"weight": dweight, "bias": dbias}


def float_dtype(module: Module, dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a layer's weights, or say that it must be float32 or float64."""
    found = np.dtype(dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"{type(module).__name__}: dtype must be float32 or float64, got {found}")
    return found
