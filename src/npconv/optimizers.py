"""Rules that turn gradients into better weights: the optimizers of the book, chapter 6.

All work on dicts of arrays, ``optimizer.update(params, grads)``, and change the arrays of `params`
in place, so that layers that hold the same arrays see the change.  The formulas are those of the
book's ``common/optimizer.py``; *W* is a weight, *g* its gradient, and all operations are elementwise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from npconv import _core
from npconv.functional._gate import F32, F64, as_dtype

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "Optimizer", "RMSprop"]

Array = NDArray[Any]

_EPSILON = 1e-7  # the book's, against division by zero

# Where gradients stay zero (at the black border of all images), what is kept shrinks step by step down
# to subnormal numbers, with which a CPU computes a hundred times slower: it tripled the time of Adam on
# MNIST.  So every few updates, what is too small to move any weight is set to zero.
_FLUSH_EVERY = 64

# Which dtype a parameter is updated in, and what is kept for it has.
_COMPUTED_IN: dict[type, np.dtype[Any]] = {np.float16: F32, np.float32: F32, np.float64: F64}


class Optimizer(ABC):
    """What all optimizers share: the walk over the parameters, checks, saving and restoring.

    A rule states which arrays it keeps per parameter (`slots`: attributes that are dicts from
    parameter name to array) and which numbers (`numbers`), and names the compiled code that applies its
    formula in one pass over memory (`_step`) and the numbers which that takes (`_step_numbers`).
    """

    slots: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ("lr", "iter")
    _step: Callable[[Sequence[Array], Sequence[Array], Sequence[Array], Sequence[float]], None]

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.iter = 0  # updates done
        for slot in self.slots:
            setattr(self, slot, {})

    def update(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """Change every array of `params` in place.

        Parameters
        ----------
        params : dict from name to ndarray of float
            float16 is updated in float32.  In place of a plain number a new one is put into the dict.
        grads : dict from name to ndarray
            A gradient for each parameter, of the same shape.  Others are not looked at.

        Raises
        ------
        ValueError
            If a gradient is missing or has another shape; nothing has been changed then.
        TypeError
            If a parameter is not of float16, float32 or float64, or a gradient is complex or an object
            array; nothing has been changed then.
        """
        numbers = {name: np.array(param, F64) for name, param in params.items() if isinstance(param, (float, int))}
        if numbers:
            self.update({**params, **numbers}, grads)
            cast("dict[str, Any]", params).update({name: float(number) for name, number in numbers.items()})
            return
        slots: list[dict[str, Array]] = [getattr(self, slot) for slot in self.slots]
        steps = []
        for name, param in params.items():
            given, kept = grads.get(name), [slot[name] for slot in slots if name in slot]
            dtype = _core.ready_dtype(param, given, *kept)
            ready = dtype is F32 or dtype is F64
            grad = cast(Array, given) if ready else _as_gradient(name, param, grads)
            if grad.shape != param.shape or any(array.shape != param.shape for array in kept):
                raise ValueError(
                    f"update: parameter {name!r} has shape {param.shape}, its gradient {grad.shape}, "
                    f"what the optimizer keeps for it {[array.shape for array in kept]}; all must agree"
                )
            steps.append((name, param, grad, kept, ready))

        updated, gradients, all_kept = [], [], []  # what is kept: of the first parameter, then of the second, ...
        copies: list[tuple[Array, Array]] = []  # where the compiled code cannot work in place
        for name, param, grad, kept, ready in steps:
            if len(kept) < len(slots):
                kept = [slot.setdefault(name, np.zeros(param.shape, grad.dtype)) for slot in slots]
            own = [param, *kept]
            if not ready and _core.ready_dtype(grad, *own) is None:
                own = [np.array(array, grad.dtype, order="C") for array in own]
                copies += zip([param, *kept], own, strict=True)
            updated.append(own[0])
            gradients.append(grad)
            all_kept += own[1:]
        self.iter += 1
        self._step(updated, gradients, all_kept, self._step_numbers())
        for array, copy in copies:
            array[...] = copy
        if self.iter % _FLUSH_EVERY == 0:
            for slot in slots:
                for name in params:
                    slot[name][np.abs(slot[name]) < 1e8 * np.finfo(slot[name].dtype).tiny] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything the optimizer remembers, as a flat dict of arrays and numbers."""
        state: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        for slot in self.slots:
            for name, array in getattr(self, slot).items():
                state[f"{slot}/{name}"] = array.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is that of another kind of optimizer; nothing has been changed then.
        """
        numbers = {name for name in state if "/" not in name}
        slots = {name.split("/", 1)[0] for name in state if "/" in name}
        if numbers != set(self.numbers) or not slots <= set(self.slots):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: the state has {sorted(numbers | slots)}, "
                f"needed are {sorted({*self.numbers, *self.slots})}"
            )
        for name in self.numbers:
            # the type stays: files give a 0-d array back for a number
            setattr(self, name, type(getattr(self, name))(state[name]))
        for slot in self.slots:
            start = f"{slot}/"
            arrays = {n[len(start) :]: np.array(a) for n, a in state.items() if n.startswith(start)}
            setattr(self, slot, arrays)

    @abstractmethod
    def _step_numbers(self) -> Sequence[float]:
        """Return what the formula takes in this update, in the order of csrc/kernels/kernels.hpp."""


def _as_gradient(name: str, param: Array, grads: Mapping[str, Array]) -> Array:
    """Return the gradient of a parameter in the dtype to compute in, or say what is wrong with the two."""
    dtype = _COMPUTED_IN.get(param.dtype.type)
    if dtype is None:
        raise TypeError(f"update: parameter {name!r} is {param.dtype}; needed is float32, float64 or float16")
    if grads.get(name) is None:
        raise ValueError(f"update: parameter {name!r} has no gradient; grads has {list(grads)}")
    return as_dtype("update", f"the gradient of {name!r}", grads[name], dtype)


class SGD(Optimizer):
    """Stochastic gradient descent: ``W -= lr * g``  (book, section 6.1.2)."""

    _step = staticmethod(_core.sgd_update)

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def _step_numbers(self) -> Sequence[float]:
        return (self.lr,)


class Momentum(Optimizer):
    """SGD with momentum: ``v = momentum * v - lr * g;  W += v``  (book, section 6.1.4)."""

    slots = ("v",)
    numbers = ("lr", "iter", "momentum")
    v: dict[str, Array]
    _step = staticmethod(_core.momentum_update)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = momentum

    def _step_numbers(self) -> Sequence[float]:
        return self.lr, self.momentum


class Nesterov(Optimizer):
    """Nesterov's accelerated gradient (http://arxiv.org/abs/1212.0901, equations 6 and 7).

    ``W += momentum**2 * v - (1 + momentum) * lr * g``, then ``v = momentum * v - lr * g``.  That is
    the paper's order: early printings of the book's code update `v` first, which counts *g* twice.
    """

    slots = ("v",)
    numbers = ("lr", "iter", "momentum")
    v: dict[str, Array]
    _step = staticmethod(_core.nesterov_update)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = momentum

    def _step_numbers(self) -> Sequence[float]:
        return self.lr, self.momentum


class AdaGrad(Optimizer):
    """AdaGrad: ``h += g**2;  W -= lr * g / (sqrt(h) + 1e-7)``  (book, section 6.1.5)."""

    slots = ("h",)
    h: dict[str, Array]
    _step = staticmethod(_core.adagrad_update)

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def _step_numbers(self) -> Sequence[float]:
        return self.lr, _EPSILON


class RMSprop(Optimizer):
    """RMSprop: ``h = decay_rate * h + (1 - decay_rate) * g**2;  W -= lr * g / (sqrt(h) + 1e-7)``.

    Formula: book, ``common/optimizer.py``, after T. Tieleman and G. Hinton, 2012.
    """

    slots = ("h",)
    numbers = ("lr", "iter", "decay_rate")
    h: dict[str, Array]
    _step = staticmethod(_core.rmsprop_update)

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__(lr)
        self.decay_rate = decay_rate

    def _step_numbers(self) -> Sequence[float]:
        return self.lr, _EPSILON, self.decay_rate


class Adam(Optimizer):
    """Adam (http://arxiv.org/abs/1412.6980; book, section 6.1.6).

    ``m += (1 - beta1) * (g - m);  v += (1 - beta2) * (g**2 - v);  W -= lr_t * m / (sqrt(v) + 1e-7)``
    with ``lr_t = lr * sqrt(1 - beta2**iter) / (1 - beta1**iter)`` in update number `iter`.
    """

    slots = ("m", "v")
    numbers = ("lr", "iter", "beta1", "beta2")
    m: dict[str, Array]
    v: dict[str, Array]
    _step = staticmethod(_core.adam_update)

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__(lr)
        self.beta1 = beta1
        self.beta2 = beta2

    def _step_numbers(self) -> Sequence[float]:
        rate = self.lr * math.sqrt(1 - self.beta2**self.iter) / (1 - self.beta1**self.iter)
        return rate, _EPSILON, self.beta1, self.beta2
