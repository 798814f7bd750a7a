"""The book's networks: structure, initial weights, gradients, and their weights in files."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from npconv import functional, fusing, layers, reference
from npconv.models import DeepConvNet, SimpleConvNet
from npconv.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop


def small_simple(**kwargs: Any) -> SimpleConvNet:
    conv_param = {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 1}
    return SimpleConvNet((2, 5, 6), conv_param, hidden_size=4, output_size=3, weight_init_std=0.5, **kwargs)


def small_deep(**kwargs: Any) -> DeepConvNet:
    one = {"filter_num": 2, "filter_size": 3, "pad": 1, "stride": 1}
    return DeepConvNet((1, 8, 9), one, one, one, one, one, one, hidden_size=4, output_size=3, **kwargs)


NETWORKS = pytest.mark.parametrize("make", [small_simple, small_deep])


def batch(network: Any, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return rng.standard_normal((size, *network.input_dim)), rng.integers(0, 3, size)


# ---- structure and initial weights ----


def test_simple_conv_net_is_the_books():
    np.random.seed(4)  # noqa: NPY002
    network = SimpleConvNet()
    np.random.seed(4)  # noqa: NPY002
    shapes = {"W1": (30, 1, 5, 5), "W2": (30 * 12 * 12, 100), "W3": (100, 10)}
    assert list(network.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    for name, shape in shapes.items():  # in the book's order
        assert_array_equal(network.params[name], 0.01 * np.random.randn(*shape))  # noqa: NPY002
    for name, size in {"b1": 30, "b2": 100, "b3": 10}.items():
        assert_array_equal(network.params[name], np.zeros(size))
    assert list(network.layers) == ["Conv1", "Relu1", "Pool1", "Affine1", "Relu2", "Affine2"]


def test_deep_conv_net_is_the_books():
    np.random.seed(4)  # noqa: NPY002
    network = DeepConvNet()
    np.random.seed(4)  # noqa: NPY002
    filters = [(16, 1), (16, 16), (32, 16), (32, 32), (64, 32), (64, 64)]
    shapes = [(fn, c, 3, 3) for fn, c in filters] + [(64 * 4 * 4, 50), (50, 10)]
    inputs = [9, 144, 144, 288, 288, 576, 1024, 50]
    for i, (shape, n) in enumerate(zip(shapes, inputs, strict=True), start=1):
        expected = np.sqrt(2.0 / n) * np.random.randn(*shape)  # noqa: NPY002
        assert_allclose(network.params[f"W{i}"], expected, rtol=1e-15)
        assert not network.params[f"b{i}"].any()
    assert [type(layer).__name__ for layer in network.layers.values()] == (
        ["Convolution", "Relu", "Convolution", "Relu", "Pooling"] * 3
        + ["Affine", "Relu", "Dropout", "Affine", "Dropout"]
    )
    assert list(network.layers)[:5] == ["Conv1", "Relu1", "Conv2", "Relu2", "Pool1"]
    assert list(network.layers)[-5:] == ["Affine1", "Relu7", "Dropout1", "Affine2", "Dropout2"]


def test_he_initialization_of_simple_conv_net():
    network = SimpleConvNet(weight_init_std="he", rng=0)
    for name, inputs in {"W1": 25, "W2": 4320, "W3": 100}.items():
        assert_allclose(network.params[name].std(), np.sqrt(2 / inputs), rtol=0.1)


@NETWORKS
def test_seeded(make):
    a, b, c = make(rng=1), make(rng=np.random.default_rng(1)), make(rng=2)
    for name in a.params:
        assert_array_equal(a.params[name], b.params[name])
    assert (a.params["W1"] != c.params["W1"]).all()


@pytest.mark.parametrize(
    ("input_dim", "conv_param", "hidden_input"),
    [
        ((1, 8, 8), {"filter_num": 4, "filter_size": 3, "pad": 0, "stride": 1}, 4 * 3 * 3),
        ((3, 32, 32), {"filter_num": 6, "filter_size": 5, "pad": 0, "stride": 1}, 6 * 14 * 14),
        ((1, 9, 12), {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}, 2 * 3 * 5),  # odd: 7x10
        ((1, 12, 9), {"filter_num": 2, "filter_size": 4, "pad": 1, "stride": 2}, 2 * 3 * 2),  # 6x4
    ],
)
def test_other_input_sizes(input_dim, conv_param, hidden_input):
    network = SimpleConvNet(input_dim, conv_param, rng=0)
    assert network.params["W2"].shape == (hidden_input, 100)
    assert network.predict(np.zeros((2, *input_dim))).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_dim": (1, 4, 4)}, ValueError, r"Conv1 does not fit: images of input_dim \(1, 4, 4\)"),
        ({"input_dim": (1, 5, 5)}, ValueError, r"Pool1 does not fit.* are \(30, 1, 1\) there"),
        ({"input_dim": (28, 28)}, ValueError, r"input_dim must be \(channels, height, width\), got \(28, 28\)"),
        ({"conv_param": {"filter_num": 3, "filter_size": 5}}, ValueError, r"lacks \['pad', 'stride'\]"),
        ({"weight_init_std": "xavier"}, ValueError, "weight_init_std must be a number or 'he', got 'xavier'"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
        ({"rng": "1"}, TypeError, "rng must be None, an int seed"),
    ],
)
def test_constructor_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        SimpleConvNet(**arguments)


@pytest.mark.parametrize("make", [SimpleConvNet, DeepConvNet])
def test_networks_run_on_plain_numpy_with_the_same_numbers(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make bench` compares the two: reference takes every argument that a network passes."""
    x, t = np.random.default_rng(8).standard_normal((4, 1, 28, 28)), np.arange(4)
    results = []
    for operators in (functional, reference):
        for module in (layers, fusing):  # which call every operator through F
            monkeypatch.setattr(module, "F", operators)
        network = make(rng=1)
        results.append((network.predict(x), network.gradient(x, t)))
    for network_output in zip(*(scores for scores, _ in results), strict=True):
        assert_allclose(*network_output, rtol=1e-9, atol=1e-12)
    compiled, plain = (gradients for _, gradients in results)
    assert list(compiled) == list(plain)
    for name, gradient in compiled.items():
        assert_allclose(gradient, plain[name], rtol=1e-7, atol=1e-12)


# ---- prediction and gradients ----


@NETWORKS
@pytest.mark.parametrize("one_hot", [False, True])
def test_gradient_against_differences(make, one_hot):
    """With dropout, too: both draw the same elements when they start from the same state."""
    network = make(rng=3)
    x, t = batch(network)
    t = np.eye(3)[t] if one_hot else t
    twin = copy.deepcopy(network)
    exact, numerical = network.gradient(x, t), twin.numerical_gradient(x, t)
    assert list(exact) == list(numerical) == list(network.params)
    for name, grad in exact.items():
        assert grad.shape == network.params[name].shape
        assert_allclose(grad, numerical[name], atol=2e-6, err_msg=name)
        assert np.abs(grad).max() > 1e-4, "a gradient of zeros would prove nothing"


def test_numerical_gradient_leaves_the_weights_as_they_were():
    network = small_simple(rng=3)
    before = {name: param.copy() for name, param in network.params.items()}
    network.numerical_gradient(*batch(network, 1))
    for name, param in network.params.items():
        assert_array_equal(param, before[name])


@NETWORKS
def test_gradient_leaves_loss_and_probabilities(make):
    network = make(rng=3)
    x, t = batch(network)
    network.gradient(x, t)
    y = network.last_layer.y
    assert_allclose(y.sum(axis=1), np.ones(6))
    assert_allclose(network.last_layer.loss, -np.log(y[np.arange(6), t] + 1e-7).mean())


def test_dropout_only_in_training():
    network = small_deep(rng=3)
    x, _ = batch(network)
    assert_array_equal(network.predict(x), network.predict(x))
    assert (network.predict(x, train_flg=True) != network.predict(x, train_flg=True)).any()


def test_accuracy_counts_every_image():
    network = small_simple(rng=3)
    x, _ = batch(network, 25)
    labels = network.predict(x).argmax(axis=1)
    wrong = labels.copy()
    wrong[[0, 23, 24]] = (labels[[0, 23, 24]] + 1) % 3  # the last batch of 10 is incomplete
    for t in (wrong, np.eye(3)[wrong]):
        for batch_size in (1, 10, 25, 100):
            assert network.accuracy(x, t, batch_size) == 22 / 25
    with pytest.raises(ValueError, match="x has 25 images, t 24 labels"):
        network.accuracy(x, labels[:24])
    with pytest.raises(ValueError, match="x has 0 images"):
        network.accuracy(x[:0], labels[:0])


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2, 784\), needed is \(N, 1, 28, 28\)"):
        SimpleConvNet(rng=0).predict(np.zeros((2, 784)))


@NETWORKS
@pytest.mark.parametrize("optimizer", [SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam])
def test_float32_stays_float32(make, optimizer):
    network, rule = make(rng=3, dtype=np.float32), optimizer()
    x, t = batch(network)  # float64, as data often are
    for _ in range(2):
        grads = network.gradient(x, t)
        rule.update(network.params, grads)
    assert network.last_layer.loss.dtype == np.float32
    assert network.predict((100 * x).astype(np.int16)).dtype == np.float32
    kept = [value for layer in network.layers.values() for value in vars(layer).values()]
    kept += [*network.params.values(), *grads.values(), *vars(network.last_layer).values()]
    floats = [a for a in kept if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    assert len(floats) > 20
    assert {a.dtype for a in floats} == {np.dtype(np.float32)}


def test_layers_see_what_the_optimizer_does():
    network = small_simple(rng=3)
    x, t = batch(network, 30)
    first = network.loss(x, t)
    rule = SGD(0.1)
    for _ in range(50):
        rule.update(network.params, network.gradient(x, t))
    assert network.loss(x, t) < 0.5 * first


# ---- files ----


@NETWORKS
def test_save_and_load(make, tmp_path):
    network, other = make(rng=3), make(rng=4)
    x, _ = batch(network)
    arrays = dict(other.params)
    network.save_params(tmp_path / "weights.npz")
    other.load_params(str(tmp_path / "weights.npz"))
    assert os.listdir(tmp_path) == ["weights.npz"]
    assert_array_equal(other.predict(x), network.predict(x))
    for name, param in other.params.items():
        assert param is arrays[name], "filled, so that whoever holds the array sees it"
        assert_array_equal(param, network.params[name])


def test_load_into_another_dtype(tmp_path):
    network, narrow = small_simple(rng=3), small_simple(rng=4, dtype=np.float32)
    network.save_params(tmp_path / "w.npz")
    narrow.load_params(tmp_path / "w.npz")
    assert narrow.params["W1"].dtype == np.float32
    assert_allclose(narrow.params["W1"], network.params["W1"], rtol=1e-6)


def without(name: str, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in params.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: without("b2", p), r"w\.npz has parameters \['W1', 'W2', 'W3', 'b1', 'b3'\], needed are"),
        (lambda p: {**p, "W9": np.ones(1)}, r"w\.npz has parameters .*'W9'"),
        (
            lambda p: {**p, "W3": np.ones((4, 7))},
            r"w\.npz: parameter 'W3' has shape \(4, 7\) and dtype float64, needed are \(4, 3\) and float64",
        ),
        (lambda p: {**p, "b3": np.array(["a", "b", "c"])}, r"w\.npz: parameter 'b3' has .* dtype <U1"),
        (lambda p: {**p, "b3": np.array([1, None, 2])}, r"w\.npz is not a readable .npz file"),
    ],
)
def test_load_refuses_the_weights_of_another_network(change, message, tmp_path):
    network = small_simple(rng=3)
    before = {name: param.copy() for name, param in network.params.items()}
    np.savez(tmp_path / "w.npz", **change(small_simple(rng=4).params))
    with pytest.raises(ValueError, match=message):
        network.load_params(tmp_path / "w.npz")
    for name, param in network.params.items():
        assert_array_equal(param, before[name])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_load_refuses_a_damaged_file(damage, tmp_path):
    network, path = small_simple(rng=3), tmp_path / "w.npz"
    network.save_params(path)
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = {
        "truncated": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        "text": b"no weights here",
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"w\.npz is not a readable .npz file"):
        network.load_params(path)


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        small_simple(rng=3).load_params(tmp_path / "nowhere.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    network, path = small_simple(rng=3), tmp_path / "w.npz"
    network.save_params(path)
    before = path.read_bytes()

    def full_disk(file: Any, **arrays: Any) -> None:
        file.write(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        network.save_params(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.npz"]


@pytest.mark.parametrize("network", [SimpleConvNet, DeepConvNet])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_layers_together_gives_the_same_bits(network, dtype):
    """The networks fuse convolution and pooling, before ReLU; the book's order, layer by layer, gives the same."""
    rng = np.random.default_rng(11)
    x, t = rng.standard_normal((5, 1, 28, 28)).astype(dtype), rng.integers(0, 10, 5)
    net = network(rng=3, dtype=dtype)
    grads = {name: grad.copy() for name, grad in network(rng=3, dtype=dtype).gradient(x, t).items()}
    y = x
    for layer in net.layers.values():
        y = layer.forward(y, True) if isinstance(layer, layers.Dropout) else layer.forward(y)
    net.last_layer.forward(y, t)
    dout = net.last_layer.backward()
    for layer in reversed(net.layers.values()):
        dout = layer.backward(dout)
    weighted = [layer for layer in net.layers.values() if hasattr(layer, "dW")]
    for i, layer in enumerate(weighted, start=1):
        assert layer.dW.tobytes() == grads[f"W{i}"].tobytes()
        assert layer.db.tobytes() == grads[f"b{i}"].tobytes()


@pytest.mark.parametrize("network", [SimpleConvNet, DeepConvNet])
def test_backward_layer_by_layer_after_a_loss(network):
    """The loop of the book's `gradient`, over layers that have run as one."""
    rng = np.random.default_rng(11)
    x, t = rng.standard_normal((5, 1, 28, 28)), rng.integers(0, 10, 5)
    grads = {name: grad.copy() for name, grad in network(rng=3).gradient(x, t).items()}
    net = network(rng=3)
    net.loss(x, t)
    dout = net.last_layer.backward()
    for layer in reversed(list(net.layers.values())):
        dout = layer.backward(dout)
    weighted = [layer for layer in net.layers.values() if hasattr(layer, "dW")]
    for i, layer in enumerate(weighted, start=1):
        assert layer.dW.tobytes() == grads[f"W{i}"].tobytes()


def test_gradient_is_that_of_the_layers_as_they_are():
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((2, 3, 1, 28, 28)), rng.integers(0, 10, (2, 3))
    net = SimpleConvNet(rng=3)
    net.gradient(x[0], t[0])
    net.layers["Conv1"] = layers.Convolution(net.params["W1"], net.params["b1"])
    assert_array_equal(net.gradient(x[1], t[1])["W1"], SimpleConvNet(rng=3).gradient(x[1], t[1])["W1"])


def test_threads_that_save_to_one_file(tmp_path):
    path = tmp_path / "w.npz"
    networks = [SimpleConvNet(rng=seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(network.save_params, path) for network in networks * 10]:
            done.result()
    networks[0].load_params(path)
    assert os.listdir(tmp_path) == ["w.npz"]


def test_a_link_to_a_saved_file_stays_one(tmp_path):
    network, link = small_simple(rng=3), tmp_path / "latest.npz"
    (tmp_path / "w.npz").write_bytes(b"old")
    try:
        link.symlink_to("w.npz")
    except OSError:
        pytest.skip("the system makes no links")
    network.save_params(link)
    assert link.is_symlink()
    small_simple(rng=4).load_params(tmp_path / "w.npz")


def test_saving_to_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        small_simple(rng=3).save_params(tmp_path / "nowhere" / "w.npz")


def test_a_pickle_is_not_loaded(tmp_path):
    (tmp_path / "params.pkl").write_bytes(pickle.dumps({"W1": np.ones(3)}))
    with pytest.raises(
        ValueError, match=r"params\.pkl .* a pickle, which is never loaded; write arrays with numpy\.savez"
    ):
        small_simple(rng=3).load_params(tmp_path / "params.pkl")
