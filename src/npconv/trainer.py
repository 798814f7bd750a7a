"""The training loop of the book (``common/trainer.py``), which can be stopped and resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npconv import optimizers
from npconv._state import as_rng, check_params, read_npz, rng_state, set_rng_state, write_npz

__all__ = ["Trainer"]

Array = NDArray[Any]

_OPTIMIZERS = {
    "sgd": optimizers.SGD,
    "momentum": optimizers.Momentum,
    "nesterov": optimizers.Nesterov,
    "adagrad": optimizers.AdaGrad,
    "rmsprop": optimizers.RMSprop,
    "adam": optimizers.Adam,
}


class Trainer:
    """Trains a network on mini-batches drawn at random.

    An epoch is ``train_size // mini_batch_size`` steps.  Each step draws its batch with replacement,
    as in the book.  As in the book, accuracies are measured in the first step of each epoch.

    Unlike the book, which runs a second forward pass after the update only to learn the loss, the
    loss recorded is that of the pass that made the gradient (``network.last_layer.loss``: before the
    update, and without a weight decay that `network.loss` may add); a third of the work is saved.
    A network that has no ``last_layer.loss`` is asked for its `loss` instead.

    Parameters
    ----------
    network : object
        Has ``params`` and ``gradient(x, t)`` (dicts by name), and ``accuracy(x, t)``.
    x_train, t_train, x_test, t_test : ndarray
        Inputs and labels; samples along the first axis.
    epochs : int
        Where `train` ends.
    mini_batch_size : int
    optimizer : str
        SGD, Momentum, Nesterov, AdaGrad, RMSprop or Adam, in capitals or not.
    optimizer_param : dict
        Arguments of the optimizer.
    evaluate_sample_num_per_epoch : int or None
        How many samples, from the first, accuracies are measured on; None: all, 0: no measurement.
    verbose : bool
        Print losses and accuracies, as the book does.
    rng : None, int or numpy.random.Generator
        Where batches are drawn from.  None: the global ``numpy.random``, as in the book.

    Attributes
    ----------
    train_loss_list : list of float
        The loss of every step.
    train_acc_list, test_acc_list : list of float
        The accuracies of every epoch.
    current_iter : int
        Steps done.
    """

    def __init__(
        self,
        network: Any,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str = "SGD",
        optimizer_param: Mapping[str, Any] = {"lr": 0.01},
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
        *,
        rng: Any = None,
    ) -> None:
        if len(x_train) != len(t_train) or len(x_test) != len(t_test) or len(x_train) == 0:
            raise ValueError(
                f"Trainer: x_train has {len(x_train)} samples and t_train {len(t_train)}, "
                f"x_test {len(x_test)} and t_test {len(t_test)}; needed are as many labels as samples"
            )
        if mini_batch_size < 1 or epochs < 0:
            raise ValueError(f"Trainer: mini_batch_size={mini_batch_size}, epochs={epochs} are too small")
        if not isinstance(optimizer, str) or optimizer.lower() not in _OPTIMIZERS:
            raise ValueError(f"Trainer: optimizer {optimizer!r} is none of {', '.join(_OPTIMIZERS)}")
        self.network = network
        self.x_train, self.t_train = x_train, t_train
        self.x_test, self.t_test = x_test, t_test
        self.epochs = epochs
        self.batch_size = mini_batch_size
        self.optimizer = _OPTIMIZERS[optimizer.lower()](**optimizer_param)
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.verbose = verbose
        self.rng = None if rng is None else as_rng(rng)

        self.train_size = len(x_train)
        self.iter_per_epoch = max(self.train_size // mini_batch_size, 1)
        self.max_iter = epochs * self.iter_per_epoch
        self.current_iter = 0
        self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []

    def train(self) -> float:
        """Train up to the end of the last epoch and return the accuracy on all test samples.

        A trainer that was resumed goes on where it stood.
        """
        while self.current_iter < self.max_iter:
            self.train_step()
        accuracy = float(self.network.accuracy(self.x_test, self.t_test))
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print(f"test acc:{accuracy}")
        return accuracy

    def train_step(self) -> None:
        """Draw a batch, improve the weights, record the loss; once per epoch, measure accuracies."""
        chosen = as_rng(self.rng).choice(self.train_size, self.batch_size)
        x, t = self.x_train[chosen], self.t_train[chosen]
        grads = self.network.gradient(x, t)
        loss = getattr(getattr(self.network, "last_layer", None), "loss", None)
        self.optimizer.update(self.network.params, grads)
        self.train_loss_list.append(float(self.network.loss(x, t) if loss is None else loss))
        if self.verbose:
            print(f"train loss:{self.train_loss_list[-1]}")

        if self.current_iter % self.iter_per_epoch == 0:
            self.current_epoch += 1
            if self.evaluate_sample_num_per_epoch != 0:
                self._evaluate()
        self.current_iter += 1

    def _evaluate(self) -> None:
        n = self.evaluate_sample_num_per_epoch
        train_accuracy = float(self.network.accuracy(self.x_train[:n], self.t_train[:n]))
        test_accuracy = float(self.network.accuracy(self.x_test[:n], self.t_test[:n]))
        self.train_acc_list.append(train_accuracy)
        self.test_acc_list.append(test_accuracy)
        if self.verbose:
            print(f"=== epoch:{self.current_epoch}, train acc:{train_accuracy}, test acc:{test_accuracy} ===")

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that the next step depends on, as a flat dict of arrays, numbers and strings.

        That is: parameters, optimizer, running statistics of batch normalization, sources of random
        numbers (batches and dropout), lists and counters.  Not the data.
        """
        state: dict[str, Any] = {**self._setting()}
        for name in ("current_iter", "current_epoch"):
            state[name] = getattr(self, name)
        for name in ("train_loss_list", "train_acc_list", "test_acc_list"):
            state[name] = np.array(getattr(self, name), dtype=np.float64)
        for name, param in self.network.params.items():
            state[f"params/{name}"] = param.copy()
        for name, value in self.optimizer.state_dict().items():
            state[f"optimizer/{name}"] = value
        for name, layer in _layers(self.network):
            if getattr(layer, "running_mean", None) is not None:
                state[f"running_mean/{name}"] = layer.running_mean.copy()
                state[f"running_var/{name}"] = layer.running_var.copy()
        for name, rng in self._rngs().items():
            state[f"rng/{name}"] = rng_state(rng)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the training then ends bitwise as if never stopped.

        `epochs` may differ from that of the saved trainer.

        Raises
        ------
        ValueError
            If the state is of another setting (network, optimizer, batch size, number of samples,
            kind of random numbers), naming what differs, or lacks something.  The trainer is
            unchanged then.
        """
        for name, needed in self._setting().items():
            if name not in state:
                raise ValueError(f"Trainer: this is not the state of a trainer: it has no {name!r}")
            found = type(needed)(state[name])  # from a file, a number comes back as a 0-d array
            if found != needed:
                raise ValueError(f"Trainer: the state was saved with {name}={found}, this has {needed}")
        params = _part(state, "params")
        check_params("Trainer: the state", params, self.network.params)
        if int(state.get("current_iter", 0)) > 0:  # then the optimizer keeps something for every parameter
            for slot in self.optimizer.slots:
                check_params(f"Trainer: the state of {slot}", _part(state, f"optimizer/{slot}"), self.network.params)
        before = self.state_dict()
        try:
            self._restore(state)
        except Exception as error:
            self._restore(before)
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"Trainer: this state cannot be restored: {reason}") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        params = _part(state, "params")
        self.optimizer.load_state_dict(_part(state, "optimizer"))
        for name, param in self.network.params.items():
            param[...] = params[name]
        for name, layer in _layers(self.network):
            if f"running_mean/{name}" in state:
                layer.running_mean = np.array(state[f"running_mean/{name}"])
                layer.running_var = np.array(state[f"running_var/{name}"])
        for name, rng in self._rngs().items():
            set_rng_state(rng, str(state[f"rng/{name}"]))
        for name in ("current_iter", "current_epoch"):
            setattr(self, name, int(state[name]))
        for name in ("train_loss_list", "train_acc_list", "test_acc_list"):
            setattr(self, name, [float(value) for value in state[name]])

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an ``.npz`` file, whole or not at all (a temporary file is renamed)."""
        write_npz(path, self.state_dict())

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Restore what `save_checkpoint` wrote; raises as `load_state_dict` does, naming the file."""
        state = read_npz(path)
        try:
            self.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def _setting(self) -> dict[str, Any]:
        """Return what must be the same in a saved and in a resumed training."""
        import json  # here, because `import npconv` shall stay quick

        kinds = {name: json.loads(rng_state(rng))["bit_generator"] for name, rng in self._rngs().items()}
        return {
            "optimizer": type(self.optimizer).__name__,
            "mini_batch_size": self.batch_size,
            "train_size": self.train_size,
            "random_numbers": ", ".join(f"{name}: {kind}" for name, kind in kinds.items()),
        }

    def _rngs(self) -> dict[str, Any]:
        """Return every source of random numbers by name: the trainer's, and those of dropout layers."""
        layers = {name: layer.rng for name, layer in _layers(self.network) if hasattr(layer, "rng")}
        return {"batches": self.rng, **layers}


def _layers(network: Any) -> list[tuple[str, Any]]:
    """Return the layers with their names; a list of layers is numbered."""
    layers = getattr(network, "layers", {})
    pairs = layers.items() if hasattr(layers, "items") else enumerate(layers)
    return [(str(name), layer) for name, layer in pairs]


def _part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the entries ``name/...`` of a flat dict, without the prefix."""
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
