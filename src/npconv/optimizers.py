"""Rules that turn gradients into better weights: the optimizers of the book, chapter 6.

All work on dicts of arrays, ``optimizer.update(params, grads)``, and change the arrays of `params`
in place, so that layers that hold the same arrays see the change.  The formulas are those of the
book's ``common/optimizer.py``; *W* is a weight, *g* its gradient, and all operations are elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npconv import _core

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "Optimizer", "RMSprop"]

Array = NDArray[Any]

# Elements updated at a time: four or five arrays of this length stay in the L2 cache while the
# formula passes over them again and again.
_BLOCK = 32768

# Where gradients stay zero (at the black border of all images), what is kept shrinks step by step down
# to subnormal numbers, with which a CPU computes a hundred times slower: it tripled the time of Adam on
# MNIST.  So every few updates, what is too small to move any weight is set to zero.
_FLUSH_EVERY = 64


class Optimizer:
    """What all optimizers share: the walk over the parameters, checks, saving and restoring.

    A rule states which arrays it keeps per parameter (`slots`: attributes that are dicts from
    parameter name to array) and which numbers (`numbers`), and writes its formula in `_step`.
    """

    slots: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ("lr", "iter")

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
        grads : dict from name to ndarray
            A gradient for each parameter, of the same shape.  Others are not looked at.

        Raises
        ------
        ValueError
            If a gradient is missing or has another shape; nothing has been changed then.
        """
        for name, param in params.items():
            if name not in grads or grads[name] is None:
                raise ValueError(f"update: parameter {name!r} has no gradient; grads has {list(grads)}")
            shapes = {np.shape(grads[name]), *(d[name].shape for d in self._kept() if name in d)}
            if shapes != {param.shape}:
                raise ValueError(
                    f"update: parameter {name!r} has shape {param.shape}, its gradient "
                    f"{np.shape(grads[name])}, what the optimizer keeps for it {shapes}; all must agree"
                )
        self.iter += 1
        for name, param in params.items():
            for kept in self._kept():
                if name not in kept:
                    kept[name] = np.zeros_like(param, order="C")
            arrays = [kept[name] for kept in self._kept()]
            self._apply(param, grads[name], arrays)
            if self.iter % _FLUSH_EVERY == 0:
                for array in arrays:
                    array[np.abs(array) < 1e8 * np.finfo(param.dtype).tiny] = 0

    def _apply(self, param: Array, grad: Array, kept: list[Array]) -> None:
        """Apply the rule to one parameter."""
        # Flat views, so that blocks of one length can be cut from any shape.
        w, g = param.reshape(-1), np.reshape(grad, -1)
        slots = [array.reshape(-1) for array in kept]
        scratch = np.empty(min(w.size, _BLOCK), w.dtype)
        for i in range(0, w.size, _BLOCK):
            block = slice(i, i + _BLOCK)
            self._step(w[block], g[block], scratch[: w.size - i], [k[block] for k in slots])
        if not param.flags.c_contiguous:  # then w was a copy
            param[...] = w.reshape(param.shape)

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

    def _kept(self) -> list[dict[str, Array]]:
        return [getattr(self, slot) for slot in self.slots]

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        """Apply the rule to one block: weights, gradients, scratch space, what is kept per slot."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent: ``W -= lr * g``  (book, section 6.1.2)."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        np.multiply(g, self.lr, out=s)
        w -= s


class Momentum(Optimizer):
    """SGD with momentum: ``v = momentum * v - lr * g;  W += v``  (book, section 6.1.4)."""

    slots = ("v",)
    numbers = ("lr", "iter", "momentum")
    v: dict[str, Array]

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = momentum

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        (v,) = kept
        v *= self.momentum
        np.multiply(g, self.lr, out=s)
        v -= s
        w += v


class Nesterov(Optimizer):
    """Nesterov's accelerated gradient (http://arxiv.org/abs/1212.0901, equations 6 and 7).

    ``W += momentum**2 * v - (1 + momentum) * lr * g``, then ``v = momentum * v - lr * g``.  That is
    the paper's order: early printings of the book's code update `v` first, which counts *g* twice.
    """

    slots = ("v",)
    numbers = ("lr", "iter", "momentum")
    v: dict[str, Array]

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = momentum

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        (v,) = kept
        np.multiply(v, self.momentum * self.momentum, out=s)
        w += s
        np.multiply(g, (1 + self.momentum) * self.lr, out=s)
        w -= s
        v *= self.momentum
        np.multiply(g, self.lr, out=s)
        v -= s


class AdaGrad(Optimizer):
    """AdaGrad: ``h += g**2;  W -= lr * g / (sqrt(h) + 1e-7)``  (book, section 6.1.5)."""

    slots = ("h",)
    h: dict[str, Array]

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        (h,) = kept
        np.multiply(g, g, out=s)
        h += s
        _scaled_descent(w, g, h, s, self.lr)


class RMSprop(Optimizer):
    """RMSprop: ``h = decay_rate * h + (1 - decay_rate) * g**2;  W -= lr * g / (sqrt(h) + 1e-7)``.

    Formula: book, ``common/optimizer.py``, after T. Tieleman and G. Hinton, 2012.
    """

    slots = ("h",)
    numbers = ("lr", "iter", "decay_rate")
    h: dict[str, Array]

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__(lr)
        self.decay_rate = decay_rate

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        (h,) = kept
        h *= self.decay_rate
        np.multiply(g, g, out=s)
        s *= 1 - self.decay_rate
        h += s
        _scaled_descent(w, g, h, s, self.lr)


class Adam(Optimizer):
    """Adam (http://arxiv.org/abs/1412.6980; book, section 6.1.6).

    ``m += (1 - beta1) * (g - m);  v += (1 - beta2) * (g**2 - v);  W -= lr_t * m / (sqrt(v) + 1e-7)``
    with ``lr_t = lr * sqrt(1 - beta2**iter) / (1 - beta1**iter)`` in update number `iter`.
    """

    slots = ("m", "v")
    numbers = ("lr", "iter", "beta1", "beta2")
    m: dict[str, Array]
    v: dict[str, Array]

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__(lr)
        self.beta1 = beta1
        self.beta2 = beta2

    def _rate(self) -> float:
        # math, not NumPy: a NumPy scalar of float64 would make float32 weights float64
        return self.lr * math.sqrt(1 - self.beta2**self.iter) / (1 - self.beta1**self.iter)

    def _apply(self, param: Array, grad: Array, kept: list[Array]) -> None:
        # The formula takes NumPy eleven passes over memory, and compiled code one.
        dtype = np.dtype(param.dtype.type)
        if dtype not in (np.float32, np.float64):
            super()._apply(param, grad, kept)
            return
        arrays = [param, *kept]
        w, m, v = (a if _core.ready_dtype(a) is dtype else np.array(a, dtype, order="C") for a in arrays)
        g = grad if _core.ready_dtype(grad) is dtype else np.require(grad, dtype, ["C", "A"])
        _core.adam_update(w, g, m, v, self.beta1, self.beta2, self._rate(), 1e-7)
        for array, updated in zip(arrays, (w, m, v), strict=True):
            if updated is not array:
                array[...] = updated

    def _step(self, w: Array, g: Array, s: Array, kept: list[Array]) -> None:
        m, v = kept
        lr_t = self._rate()
        np.subtract(g, m, out=s)
        s *= 1 - self.beta1
        m += s
        np.multiply(g, g, out=s)
        s -= v
        s *= 1 - self.beta2
        v += s
        _scaled_descent(w, m, v, s, lr_t)


def _scaled_descent(w: Array, direction: Array, square: Array, s: Array, lr: float) -> None:
    """``w -= lr * direction / (sqrt(square) + 1e-7)``, with `s` as scratch space."""
    np.sqrt(square, out=s)
    s += 1e-7
    np.divide(direction, s, out=s)
    s *= lr
    w -= s
