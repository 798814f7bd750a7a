"""The training loop: the book's steps, the same for the same seed, and resumable at any step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from npconv import Trainer
from npconv.layers import Affine, BatchNormalization, Dropout, Relu, SoftmaxWithLoss
from npconv.models import DeepConvNet, SimpleConvNet
from npconv.optimizers import SGD

rng = np.random.default_rng(6)
X, T = rng.random((50, 1, 6, 6)), rng.integers(0, 3, 50)
X_TEST, T_TEST = rng.random((23, 1, 6, 6)), rng.integers(0, 3, 23)


def simple(seed: Any = 1, **kwargs: Any) -> SimpleConvNet:
    conv_param = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
    return SimpleConvNet((1, 6, 6), conv_param, 4, 3, 0.3, rng=seed, **kwargs)


def trainer(network: Any = None, *, seed: Any = 2, **kwargs: Any) -> Trainer:
    options = {"epochs": 3, "mini_batch_size": 10, "verbose": False, **kwargs}
    return Trainer(network or simple(), X, T, X_TEST, T_TEST, rng=seed, **options)


class BookNet:
    """A network as a reader of the book writes it: a list of layers, with dropout and normalization."""

    def __init__(self, seed: int | None) -> None:
        rng = np.random.default_rng(seed)
        self.params = {
            "W1": rng.standard_normal((36, 8)), "b1": np.zeros(8), "gamma": np.ones(8), "beta": np.zeros(8),
            "W2": rng.standard_normal((8, 3)), "b2": np.zeros(3),
        }  # fmt: skip
        p = self.params
        self.layers = [
            Affine(p["W1"], p["b1"]), BatchNormalization(p["gamma"], p["beta"]), Relu(),
            Dropout(0.4, None if seed is None else seed + 1), Affine(p["W2"], p["b2"]),
        ]  # fmt: skip
        self.lastLayer = SoftmaxWithLoss()

    def predict(self, x: np.ndarray, train_flg: bool = False) -> np.ndarray:
        for layer in self.layers:
            with_flag = isinstance(layer, (Dropout, BatchNormalization))
            x = layer.forward(x, train_flg) if with_flag else layer.forward(x)
        return x

    def loss(self, x: np.ndarray, t: np.ndarray) -> Any:
        return self.lastLayer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x: np.ndarray, t: np.ndarray) -> float:
        return float(np.mean(self.predict(x).argmax(axis=1) == t))

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        self.loss(x, t)
        dout = self.lastLayer.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        first, norm, _, _, last = self.layers
        return {
            "W1": first.dW, "b1": first.db, "gamma": norm.dgamma, "beta": norm.dbeta, "W2": last.dW, "b2": last.db
        }  # fmt: skip


def assert_same(a: Trainer, b: Trainer) -> None:
    """Everything is bitwise the same."""
    left, right = a.state_dict(), b.state_dict()
    assert list(left) == list(right)
    for name in left:
        assert_array_equal(left[name], right[name], err_msg=name)


# ---- training ----


def test_steps_are_the_books():
    """Three epochs written out: draw, gradient, update; accuracies after the first step of an epoch."""
    network, twin, rule = simple(), simple(), SGD(0.2)
    t = trainer(network, optimizer_param={"lr": 0.2})
    final = t.train()
    draws = np.random.default_rng(2)
    losses, train_acc, test_acc = [], [], []
    for i in range(15):
        chosen = draws.choice(50, 10)
        grads = twin.gradient(X[chosen], T[chosen])
        losses.append(twin.last_layer.loss)
        rule.update(twin.params, grads)
        if i % 5 == 0:
            train_acc.append(twin.accuracy(X, T))
            test_acc.append(twin.accuracy(X_TEST, T_TEST))
    assert t.current_iter == t.max_iter == 15
    assert t.current_epoch == 3
    assert t.train_loss_list == losses
    assert t.train_acc_list == train_acc
    assert t.test_acc_list == test_acc
    assert final == twin.accuracy(X_TEST, T_TEST)
    for name in network.params:
        assert_array_equal(network.params[name], twin.params[name])


def test_without_rng_the_global_seed_rules():
    results = []
    for _ in range(2):
        np.random.seed(7)  # noqa: NPY002
        t = trainer(simple(None), seed=None)
        t.train()
        results.append(t)
    assert results[0].train_loss_list == results[1].train_loss_list
    np.random.seed(7)  # noqa: NPY002
    simple(None)
    t = trainer(simple(None), seed=None)  # two networks have been drawn
    t.train()
    assert t.train_loss_list != results[0].train_loss_list


def test_training_learns():
    t = trainer(simple(dtype=np.float32), epochs=60, optimizer="Adam", optimizer_param={"lr": 0.01})
    t.train()
    assert np.mean(t.train_loss_list[-20:]) < 0.7 * np.mean(t.train_loss_list[:20])


def test_loss_of_a_network_without_last_layer():
    np.random.seed(0)  # noqa: NPY002
    network = BookNet(3)
    t = trainer(network)
    t.train_step()
    chosen = np.random.default_rng(2).choice(50, 10)
    twin = BookNet(3)
    SGD(0.01).update(twin.params, twin.gradient(X[chosen], T[chosen]))
    assert_allclose(t.train_loss_list, [twin.loss(X[chosen], T[chosen])])  # after the update, as the book's


@pytest.mark.parametrize(("samples", "expected"), [(None, (50, 23)), (7, (7, 7)), (30, (30, 23))])
def test_how_many_samples_are_evaluated(samples, expected, monkeypatch):
    network, sizes = simple(), []
    monkeypatch.setattr(network, "accuracy", lambda x, t: sizes.append(len(x)) or 0.5)
    t = trainer(network, evaluate_sample_num_per_epoch=samples)
    t.train_step()
    assert tuple(sizes) == expected
    assert t.train_acc_list == t.test_acc_list == [0.5]


def test_no_evaluation_on_request():
    t = trainer(evaluate_sample_num_per_epoch=0)
    t.train()
    assert t.train_acc_list == t.test_acc_list == []
    assert t.current_epoch == 3


def test_an_epoch_is_whole_steps():
    assert trainer(mini_batch_size=12).iter_per_epoch == 4
    t = trainer(mini_batch_size=80, epochs=2)  # more than there are: drawn with replacement
    t.train()
    assert t.current_iter == 2


def test_verbose_prints_as_the_book(capsys):
    trainer(verbose=True, epochs=1, mini_batch_size=25).train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "train loss", "=== epoch", "train loss", "=============== Final Test Accuracy ===============", "test acc"
    ]  # fmt: skip
    trainer().train()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["SGD", "momentum", "Nesterov", "AdaGrad", "RMSprop", "ADAM"])
def test_optimizers_by_name(name):
    t = trainer(optimizer=name, optimizer_param={"lr": 0.125})
    assert type(t.optimizer).__name__.lower() == name.lower()
    assert t.optimizer.lr == 0.125


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is none of sgd, momentum"),
        ({"mini_batch_size": 0}, "mini_batch_size=0"),
        ({"epochs": -1}, "epochs=-1"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer(**arguments)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="x_train has 50 samples and t_train 49"):
        Trainer(simple(), X, T[:49], X_TEST, T_TEST)


# ---- checkpoints ----


def deep() -> DeepConvNet:
    one = {"filter_num": 2, "filter_size": 3, "pad": 1, "stride": 1}
    two = {**one, "pad": 2}
    return DeepConvNet((1, 6, 6), one, two, two, two, two, one, hidden_size=4, output_size=3, rng=1, dtype="f4")


@pytest.mark.parametrize("make", [simple, deep, lambda: BookNet(3)], ids=["simple", "deep", "book"])
@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"])
@pytest.mark.parametrize("steps", [0, 7])
def test_resumed_training_is_bitwise_that_of_an_unbroken_one(make, optimizer, steps, tmp_path):
    path = tmp_path / "checkpoint.npz"
    unbroken = trainer(make(), optimizer=optimizer)
    unbroken.train()

    broken = trainer(make(), optimizer=optimizer)
    for _ in range(steps):
        broken.train_step()
    broken.save_checkpoint(path)
    broken.train_step()  # what came after the checkpoint is lost

    resumed = trainer(make(), optimizer=optimizer, seed=99)  # its seed does not matter
    resumed.load_checkpoint(path)
    assert resumed.current_iter == steps
    resumed.train()
    assert_same(resumed, unbroken)


def test_one_generator_for_all():
    def make() -> Trainer:
        rng = np.random.default_rng(4)
        network = deep()
        for name in ("Dropout1", "Dropout2"):
            network.layers[name].rng = rng
        return trainer(network, seed=rng)

    unbroken, broken, resumed = make(), make(), make()
    unbroken.train()
    for _ in range(4):
        broken.train_step()
    resumed.load_state_dict(broken.state_dict())
    resumed.train()
    assert_same(resumed, unbroken)


def test_global_random_numbers_are_restored():
    np.random.seed(3)  # noqa: NPY002
    unbroken = trainer(BookNet(None), seed=None)
    start = unbroken.state_dict()
    unbroken.train()
    resumed = trainer(BookNet(None), seed=None)
    resumed.load_state_dict(start)
    resumed.train()
    assert_same(resumed, unbroken)


def test_state_is_a_copy():
    t = trainer()
    state = t.state_dict()
    before = state["params/W1"].copy()
    t.train()
    assert_array_equal(state["params/W1"], before)


def test_a_resumed_training_may_last_longer(tmp_path):
    t = trainer(epochs=1)
    t.train()
    t.save_checkpoint(tmp_path / "c.npz")
    longer, unbroken = trainer(epochs=3), trainer(epochs=3)
    longer.load_checkpoint(tmp_path / "c.npz")
    longer.train()
    unbroken.train()
    assert_same(longer, unbroken)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"optimizer": "Adam"}, "saved with optimizer=Adam, this has SGD"),
        ({"mini_batch_size": 5}, "saved with mini_batch_size=5, this has 10"),
        ({"seed": None}, "saved with random_numbers=batches: MT19937, this has batches: PCG64"),
    ],
)
def test_checkpoint_of_another_setting(other, message, tmp_path):
    path = tmp_path / "c.npz"
    trainer(**other).save_checkpoint(path)
    t = trainer()
    before = t.state_dict()
    with pytest.raises(ValueError, match=rf"c\.npz: Trainer: the state was {message}"):
        t.load_checkpoint(path)
    for name, value in t.state_dict().items():
        assert_array_equal(value, before[name])


def test_checkpoint_of_another_network(tmp_path):
    path = tmp_path / "c.npz"
    conv_param = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
    trainer(SimpleConvNet((1, 6, 6), conv_param, 5, 3, rng=0)).save_checkpoint(path)
    with pytest.raises(ValueError, match=r"c\.npz: .*parameter 'W2' has shape \(8, 5\).* needed are \(8, 4\)"):
        trainer().load_checkpoint(path)


def test_a_file_that_is_no_checkpoint(tmp_path):
    simple().save_params(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz: .* it has no 'optimizer'"):
        trainer().load_checkpoint(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("rng/batches"), "it has no 'rng/batches'"),
        (lambda state: state.pop("current_epoch"), "it has no 'current_epoch'"),
        (lambda state: state.pop("test_acc_list"), "it has no 'test_acc_list'"),
        (lambda state: state.update({"rng/batches": "{"}), "cannot be restored: Expecting"),
        (lambda state: state.pop("optimizer/v/W1"), "the state of v has parameters"),
        (
            lambda state: state.update({"optimizer/v/W1": np.ones(2)}),
            r"the state of v: parameter 'W1' has shape \(2,\)",
        ),
    ],
)
def test_a_damaged_state_changes_nothing(damage, message):
    other = trainer(optimizer="Momentum")
    other.train_step()
    state = other.state_dict()
    damage(state)
    t = trainer(optimizer="Momentum")
    before = t.state_dict()
    with pytest.raises(ValueError, match=message):
        t.load_state_dict(state)
    for name, value in t.state_dict().items():
        assert_array_equal(value, before[name])
