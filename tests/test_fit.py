"""Training, testing and use of networks of `npconv.nn`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from npconv import datasets, nn, optimizers


def same_bits(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def digits(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    (x, t), _ = datasets.load_digits_small()
    return x[:count], t[:count]


def small_net(seed: int = 0, dtype: Any = np.float32) -> nn.Sequential:
    return nn.convnet((1, 8, 8), [[8]], [16], rng=seed, dtype=dtype)


def test_fit_learns_digits():
    (x, t), (x_test, t_test) = datasets.load_digits_small()
    model = nn.convnet((1, 8, 8), [[16], [32]], [32], rng=0)
    options = {"optimizer": optimizers.Adam(0.005), "validation_data": (x_test, t_test), "rng": 0, "verbose": False}
    history = model.fit(x, t, epochs=6, **options)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(numbers) == 6 and all(type(n) is float for n in numbers) for numbers in history.values())
    assert history["loss"][-1] < 0.3 < 1 < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.85 > 0.75 > history["accuracy"][0]
    loss, accuracy = model.evaluate(x_test, t_test)
    assert (loss, accuracy) == (history["val_loss"][-1], history["val_accuracy"][-1])
    assert_allclose(accuracy, (model.predict(x_test).argmax(axis=1) == t_test).mean())


@pytest.mark.parametrize("shuffle", [False, True])
def test_fit_is_the_loop_that_everyone_writes(shuffle):
    x, t = digits(50)
    model, twin = small_net(), small_net()
    history = model.fit(x, t, epochs=2, batch_size=16, shuffle=shuffle, rng=7, verbose=False)
    loss, optimizer, rng = nn.CrossEntropyLoss(), optimizers.Adam(), np.random.default_rng(7)
    for epoch in range(2):
        order = rng.permutation(50) if shuffle else np.arange(50)
        losses, correct = 0.0, 0
        for start in range(0, 50, 16):
            chosen = order[start : start + 16]
            y = twin(x[chosen])
            losses += len(chosen) * loss(y, t[chosen])
            correct += (y.argmax(axis=1) == t[chosen]).sum()
            twin.backward(loss.backward())
            optimizer.update(twin.parameters(), twin.grads)
        assert_allclose(history["loss"][epoch], losses / 50, rtol=1e-12)
        assert history["accuracy"][epoch] == correct / 50
    for name, array in twin.parameters().items():
        assert same_bits(model.parameters()[name], array), name


def test_fit_is_repeatable_and_rng_decides():
    x, t = digits(64)

    def trained(seed: int) -> np.ndarray:
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.3, rng=1), nn.Linear(64, 10, rng=0))
        model.fit(x, t, rng=seed, verbose=False)
        return model[2].weight

    assert same_bits(trained(1), trained(1))
    assert (trained(1) != trained(2)).any()


def test_fit_takes_other_dtypes_one_hot_rows_losses_and_optimizers():
    x, t = digits(40)
    results = []
    for images, labels in ((x, t), (x.astype(np.float64), t), (x, np.eye(10)[t])):
        model, optimizer = small_net(), optimizers.Momentum(0.05)
        history = model.fit(images, labels, optimizer=optimizer, shuffle=False, verbose=False)
        assert optimizer.iter == 2
        assert model[0].weight.dtype == np.float32
        results.append((history["accuracy"], model[0].weight))
    for accuracy, weight in results[1:]:
        assert accuracy == results[0][0]
        assert_allclose(weight, results[0][1], rtol=0, atol=1e-6)
    assert small_net().predict((16 * x).astype(np.uint8)).dtype == np.float32

    class Halved(nn.CrossEntropyLoss):
        def forward(self, x: np.ndarray, t: np.ndarray) -> float:
            return super().forward(x, t) / 2

    model = small_net()
    halved, whole = model.evaluate(x, t, loss=Halved())[0], model.evaluate(x, t)[0]
    assert_allclose(halved, whole / 2)
    history = model.fit(
        x, t, batch_size=40, validation_data=(x, t), loss=Halved(), optimizer=optimizers.SGD(0), verbose=False
    )
    assert_allclose(history["loss"] + history["val_loss"], [halved, halved], rtol=1e-6)


def test_callbacks():
    x, t = digits(50)
    calls: list[Any] = []

    class Watcher:
        def on_batch_end(self, model: Any, batch: int, logs: dict[str, float]) -> None:
            calls.append(("batch", batch, logs))

        def on_epoch_end(self, model: Any, epoch: int, logs: dict[str, float]) -> None:
            calls.append(("epoch", epoch, logs))

    def function(model: Any, epoch: int, logs: dict[str, float]) -> None:
        calls.append((model, epoch, logs))

    model = small_net()
    history = model.fit(
        x, t, epochs=2, batch_size=20, validation_data=(x, t), callbacks=[Watcher(), function], verbose=False
    )
    one_epoch = ["batch", "batch", "batch", "epoch", model]
    assert [call[0] for call in calls] == one_epoch * 2
    assert [call[1] for call in calls] == [0, 1, 2, 0, 0, 0, 1, 2, 1, 1]
    for epoch in range(2):
        batches = [logs for kind, _, logs in calls[5 * epoch : 5 * epoch + 3]]
        assert all(logs["epoch"] == epoch for logs in batches)
        weights = [20, 20, 10]
        for name in ("loss", "accuracy"):
            mean = np.average([logs[name] for logs in batches], weights=weights)
            assert_allclose(mean, history[name][epoch], rtol=1e-9)
        assert calls[5 * epoch + 3][2] == {name: numbers[epoch] for name, numbers in history.items()}


def test_a_callback_stops_the_training():
    x, t = digits(20)

    def stop(model: Any, epoch: int, logs: dict[str, float]) -> None:
        model.stop_training = epoch == 1

    model = small_net()
    assert len(model.fit(x, t, epochs=5, callbacks=[stop], verbose=False)["loss"]) == 2
    assert len(model.fit(x, t, epochs=3, verbose=False)["loss"]) == 3
    assert model.fit(x, t, epochs=0, verbose=False) == {"loss": [], "accuracy": []}


def test_modes_and_needs_dx_are_restored():
    x, t = digits(20)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10))
    seen = []

    def look(model: Any, epoch: int, logs: dict[str, float]) -> None:
        seen.append([layer.training for layer in model.modules()] + [model.needs_dx])

    def fail(model: Any, epoch: int, logs: dict[str, float]) -> None:
        raise KeyboardInterrupt

    model[1].eval()
    modes = [layer.training for layer in model.modules()]
    model.fit(x, t, callbacks=[look], validation_data=(x, t), verbose=False)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, t, callbacks=[fail], verbose=False)
    assert seen == [[True] * 6 + [False]]
    assert [layer.training for layer in model.modules()] == modes
    assert model[0].needs_dx
    model.train()
    first = model.predict(x)
    assert_array_equal(model.predict(x), first, err_msg="no dropout")
    tracked = model[1].num_batches_tracked.copy()
    model.evaluate(x, t)
    assert model[1].num_batches_tracked == tracked
    assert model.training
    assert model[3].training
    assert model.backward(model(x)).shape == x.shape, "dx is there again"


def test_predict_in_batches_of_any_size():
    x, _ = digits(30)
    model = small_net(dtype=np.float64)
    expected = model(x.astype(np.float64))
    for batch_size in (1, 7, 30, 100):
        assert_allclose(model.predict(x, batch_size), expected, rtol=0, atol=1e-13)
        assert_allclose(model.evaluate(x, expected.argmax(axis=1), batch_size=batch_size)[1], 1)
    assert model.predict(x[:0]).shape == (0, 10)


def test_fit_prints_a_line_per_epoch(capsys, monkeypatch):
    x, t = digits(20)
    history = small_net().fit(x, t, epochs=2, validation_data=(x, t))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "epoch 2/2: " + ", ".join(f"{name} {numbers[1]:.4f}" for name, numbers in history.items())
    small_net().fit(x, t, verbose=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    small_net().fit(x, t)
    assert capsys.readouterr().out.startswith("epoch 1/1: loss ")


def test_fit_shows_a_bar_on_a_terminal(capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    shown = {}

    class Bar(tqdm.tqdm):
        def __init__(self, **kwargs: Any) -> None:
            assert kwargs.pop("disable") is None, "only where there is a terminal"
            super().__init__(**kwargs, mininterval=0)

        def close(self) -> None:
            shown[self.desc] = self.n, self.total, self.postfix
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    x, t = digits(20)
    small_net().fit(x, t, batch_size=6, epochs=2)
    assert list(shown) == ["epoch 1/2", "epoch 2/2"]
    assert all(bar[:2] == (4, 4) and bar[2].startswith("loss 2.") for bar in shown.values())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, t: m.fit(x, t[:5]), ValueError, r"fit: x has shape \(20, 1, 8, 8\) and t \(5,\)"),
        (lambda m, x, t: m.fit(x[:0], t[:0]), ValueError, "fit: .* needed are N > 0 samples"),
        (lambda m, x, t: m.fit(x, t, batch_size=0), ValueError, "fit: batch_size is 0; it must be at least 1"),
        (lambda m, x, t: m.fit(x, t, epochs=-1), ValueError, "fit: epochs is -1; it must be at least 0"),
        (lambda m, x, t: m.fit(x, t, callbacks=[3]), TypeError, "fit: a callback is 3; needed is a function"),
        (lambda m, x, t: m.fit(x, t, validation_data=(x, t[:3])), ValueError, "fit: validation_data: x has shape"),
        (lambda m, x, t: m.evaluate(x, t[:5]), ValueError, r"evaluate: x has shape .* and t \(5,\)"),
        (lambda m, x, t: m.predict(x, 0), ValueError, "predict: batch_size is 0"),
        (lambda m, x, t: m.fit(x, t, batch_size=2.0), TypeError, "fit: batch_size is 2.0; needed is an int"),
        (lambda m, x, t: m.fit(x, t, optimizer="adam"), TypeError, "fit: optimizer is 'adam'; needed is one of"),
        (lambda m, x, t: m.fit(x, t, optimizer=optimizers.Adam), TypeError, "fit: optimizer is <class .*; needed is"),
        (
            lambda m, x, t: m.fit(x, t, loss=nn.CrossEntropyLoss),
            TypeError,
            "fit: loss is <class .*; needed is an object",
        ),
        (lambda m, x, t: m.fit(x, t, validation_data=x), TypeError, r"validation_data is a ndarray; needed is a pair"),
        (lambda m, x, t: m.fit(x, t, validation_data=(x, t, t)), TypeError, r"validation_data is a tuple; needed is a"),
        (lambda m, x, t: m.fit(x, t, callbacks=print), TypeError, "fit: callbacks is <built-in .*; needed is a list"),
        (lambda m, x, t: m.fit(x * 1j, t), TypeError, "fit: x is complex64 of shape .*; needed are real numbers"),
        (lambda m, x, t: m.predict(None), TypeError, r"predict: x is object of shape \(\); needed are real numbers"),
        (lambda m, x, t: m.fit(x, t + 0.5), TypeError, "softmax_cross_entropy: labels must be integers"),
    ],
)
def test_training_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(small_net(), *digits(20))
