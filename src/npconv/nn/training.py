"""Training, testing and use of a network: the loop that everyone writes, once."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from npconv._state import as_rng
from npconv.functional._gate import as_int
from npconv.nn.dense import CrossEntropyLoss
from npconv.nn.module import Array, Module
from npconv.optimizers import Adam, Optimizer

Callback = Callable[[Any, int, dict[str, float]], object]


class Classifier(Module):
    """A module that makes one score per class of every sample, and can be trained to.

    Attributes
    ----------
    stop_training : bool
        A callback sets it to True to end `fit` after the present epoch.
    """

    stop_training = False

    def fit(
        self,
        x: Array,
        t: Array,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        optimizer: Optimizer | None = None,
        loss: Any = None,
        validation_data: tuple[Array, Array] | None = None,
        callbacks: Iterable[Any] = (),
        shuffle: bool = True,
        rng: Any = None,
        verbose: bool = True,
    ) -> dict[str, list[float]]:
        """Train.  Each epoch is one pass over the samples, in batches; the last may be smaller.

        Parameters
        ----------
        x : ndarray, shape (N, ...)
            Samples, cast to the dtype of the parameters batch by batch.
        t : ndarray, shape (N,) of int or (N, classes)
            Labels, or one-hot rows.
        epochs, batch_size : int
        optimizer : Optimizer, optional
            One of `npconv.optimizers`, a new `Adam` by default.  Pass the same one to go on with a training.
        loss : object, optional
            Has ``forward(logits, t)`` and ``backward()``; `CrossEntropyLoss` by default.
        validation_data : (x, t), optional
            What to `evaluate` on after each epoch.
        callbacks : iterable
            Each is a function ``callback(model, epoch, logs)``, called after each epoch (from 0) with a dict of the
            numbers that go into the history, or an object with such a method ``on_epoch_end`` or with a method
            ``on_batch_end(model, batch, logs)``, or both.  The latter is called after each batch (from 0 in each
            epoch) with its "epoch", "loss" and "accuracy".
        shuffle : bool
            Whether each epoch goes through the samples in a new order.
        rng : None, int or numpy.random.Generator
            Where that order is drawn; None: from the global ``numpy.random``.
        verbose : bool
            Print a line after each epoch; with tqdm installed, a bar shows progress on a terminal, too.

        Returns
        -------
        dict of "loss" and "accuracy", and with validation data "val_loss" and "val_accuracy", to lists
            One number per epoch.  Those without "val" are means over the batches as they were trained on: of a network
            that got better all the while, with dropout and in training mode.

        Raises
        ------
        ValueError, TypeError
            If samples and labels differ in number, there are none, or an argument is out of range.
        """
        x, t, labels = _checked("fit", x, t, batch_size)
        as_int("fit", "epochs", epochs, 0)
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                kind = type(validation_data).__name__
                raise TypeError(f"fit: validation_data is a {kind}; needed is a pair (x, t)")
            _checked("fit: validation_data", *validation_data, batch_size)
        rng = as_rng(rng)
        optimizer = Adam() if optimizer is None else optimizer
        loss = CrossEntropyLoss() if loss is None else loss
        _require("optimizer", optimizer, "one of npconv.optimizers, as Adam(lr=0.001)", "update")
        _require("loss", loss, "an object with forward and backward, as CrossEntropyLoss()", "forward", "backward")
        after_epoch, after_batch = _sorted_callbacks(callbacks)
        dtype, size = self._dtype(), len(x)
        names = ("loss", "accuracy") if validation_data is None else ("loss", "accuracy", "val_loss", "val_accuracy")
        history: dict[str, list[float]] = {name: [] for name in names}
        self.stop_training = False
        modes = self._modes()
        needs_dx, self.needs_dx = self.needs_dx, False
        try:
            for epoch in range(epochs):
                self.train()
                order = rng.permutation(size) if shuffle else None
                total_loss, total_correct = 0.0, 0
                with _progress_bar(-(-size // batch_size), f"epoch {epoch + 1}/{epochs}", verbose) as advance:
                    for batch, start in enumerate(range(0, size, batch_size)):
                        end = min(start + batch_size, size)
                        chosen = slice(start, end) if order is None else order[start:end]
                        logits = self.forward(x[chosen].astype(dtype, copy=False))
                        value = loss.forward(logits, t[chosen])
                        self.backward(loss.backward())
                        optimizer.update(self.parameters(), self.grads)

                        correct = np.count_nonzero(logits.argmax(axis=1) == labels[chosen])
                        total_loss += float(value) * (end - start)
                        total_correct += int(correct)
                        advance(total_loss / end)
                        if after_batch:
                            logs = {"epoch": epoch, "loss": float(value), "accuracy": correct / (end - start)}
                            for callback in after_batch:
                                callback(self, batch, logs)

                logs = {"loss": total_loss / size, "accuracy": total_correct / size}
                if validation_data is not None:
                    logs["val_loss"], logs["val_accuracy"] = self.evaluate(*validation_data, loss=loss)
                for name, number in logs.items():
                    history[name].append(number)
                if verbose:
                    print(f"epoch {epoch + 1}/{epochs}:", ", ".join(f"{name} {n:.4f}" for name, n in logs.items()))
                for callback in after_epoch:
                    callback(self, epoch, logs)
                if self.stop_training:
                    break
        finally:
            self.needs_dx = needs_dx
            _restore(modes)
        return history

    def evaluate(self, x: Array, t: Array, batch_size: int = 100, *, loss: Any = None) -> tuple[float, float]:
        """Return the mean loss and the accuracy (share of samples whose highest score is at their label).

        Runs in eval mode; the mode is afterwards what it was.

        Parameters
        ----------
        x, t, loss
            As `fit` has them.
        batch_size : int
            How many samples are worked on at a time.
        """
        x, t, labels = _checked("evaluate", x, t, batch_size)
        loss = CrossEntropyLoss() if loss is None else loss
        total_loss, correct = 0.0, 0
        for start, logits in self._outputs(x, batch_size):
            end = start + len(logits)
            total_loss += float(loss.forward(logits, t[start:end])) * len(logits)
            correct += int(np.count_nonzero(logits.argmax(axis=1) == labels[start:end]))
        return total_loss / len(x), correct / len(x)

    def predict(self, x: Array, batch_size: int = 100) -> Array:
        """Return the scores (logits) of `x`, in eval mode; the mode is afterwards what it was.

        Threads that share a model call its `eval` first: one that put the mode back would do so under the others.

        Parameters
        ----------
        x : ndarray, shape (N, ...)
            Cast to the dtype of the parameters.
        batch_size : int
            How many samples are worked on at a time.
        """
        batch_size = as_int("predict", "batch_size", batch_size, 1)
        parts = [logits for _, logits in self._outputs(_samples("predict", x), batch_size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _outputs(self, x: Array, batch_size: int) -> Iterator[tuple[int, Array]]:
        """Yield the place of each batch of `x`, and its scores in eval mode."""
        dtype, modes = self._dtype(), self._modes()
        self.eval()
        try:
            for start in range(0, max(len(x), 1), batch_size):
                yield start, self.forward(x[start : start + batch_size].astype(dtype, copy=False))
        finally:
            _restore(modes)

    def _dtype(self) -> np.dtype[Any]:
        """Return the dtype of the parameters; float32 if there are none."""
        return next((array.dtype for array in self.parameters().values()), np.dtype(np.float32))

    def _modes(self) -> list[tuple[Module, bool]]:
        return [(module, module.training) for module in self.modules()]


def _restore(modes: list[tuple[Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def _checked(op: str, x: Array, t: Array, batch_size: int) -> tuple[Array, Array, Array]:
    """Return x, t and the labels in t."""
    x, t = _samples(op, x), np.asarray(t)
    if t.ndim not in (1, 2) or len(x) != len(t) or len(t) == 0:
        raise ValueError(
            f"{op}: x has shape {x.shape} and t {t.shape}; needed are N > 0 samples, and (N,) labels or "
            "(N, classes) one-hot rows"
        )
    as_int(op, "batch_size", batch_size, 1)
    return x, t, t if t.ndim == 1 else t.argmax(axis=1)


def _samples(op: str, x: Array) -> Array:
    x = np.asarray(x)
    if x.dtype.kind not in "fiub" or x.ndim == 0:
        raise TypeError(f"{op}: x is {x.dtype} of shape {x.shape}; needed are real numbers, shape (N, ...)")
    return x


def _require(name: str, value: Any, needed: str, *methods: str) -> None:
    """Raise TypeError unless a value, no class, has the methods."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise TypeError(f"fit: {name} is {value!r}; needed is {needed}")


def _sorted_callbacks(callbacks: Iterable[Any]) -> tuple[list[Callback], list[Callback]]:
    """Return what to call after each epoch, and what after each batch."""
    after_epoch, after_batch = [], []
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks is {callbacks!r}; needed is a list of callbacks")
    for callback in callbacks:
        of_epoch, of_batch = getattr(callback, "on_epoch_end", None), getattr(callback, "on_batch_end", None)
        if of_epoch is None and of_batch is None:
            if not callable(callback):
                raise TypeError(
                    f"fit: a callback is {callback!r}; needed is a function (model, epoch, logs), or an object with "
                    "on_epoch_end or on_batch_end"
                )
            of_epoch = callback
        if of_epoch is not None:
            after_epoch.append(of_epoch)
        if of_batch is not None:
            after_batch.append(of_batch)
    return after_epoch, after_batch


@contextlib.contextmanager
def _progress_bar(total: int, label: str, verbose: bool) -> Iterator[Callable[[float], object]]:
    """Yield a function to call with the loss after each batch; a bar shows on a terminal if tqdm is there."""
    try:
        tqdm = importlib.import_module("tqdm") if verbose else None
    except ImportError:
        tqdm = None
    if tqdm is None:
        yield lambda loss: None
        return
    with tqdm.tqdm(desc=label, total=total, leave=False, disable=None) as bar:

        def advance(loss: float) -> None:
            if bar.update():  # it has just been drawn: the loss shows from the next time on
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

        yield advance
