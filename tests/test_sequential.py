"""Networks of `npconv.nn`: beside PyTorch's, fused and not, and looked into."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from cases import indices_of
from numpy.testing import assert_allclose, assert_array_equal

from npconv import functional, nn, optimizers
from npconv.fusing import ConvolutionRelu, ConvolutionReluPooling
from npconv.layers import Dropout
from npconv.models import DeepConvNet, SimpleConvNet


def same_bits(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def draw(*shape: int, dtype: Any = np.float32, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def step_by_step(model: nn.Sequential, x: np.ndarray, dy: np.ndarray) -> tuple[Any, Any, dict[str, Any]]:
    """Return y, dx and the gradients of a model whose layers are called one by one."""
    names, layers = list(model.layers), copy.deepcopy(list(model))
    for layer in layers:
        x = layer(x)
    for layer in reversed(layers):
        dy = layer.backward(dy)
    grads = {
        f"{name}.{key}": grad for name, layer in zip(names, layers, strict=True) for key, grad in layer.grads.items()
    }
    return x, dy, grads


# ---- the networks of the tutorials ----


def net2(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 10, 5, **weights), lib.MaxPool2d(2), lib.ReLU(),
        lib.Conv2d(10, 20, 5, **weights), lib.MaxPool2d(2), lib.ReLU(),
        lib.Flatten(), lib.Linear(320, 10, **weights),
    )  # fmt: skip


def keras_cnn(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 64, 3, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(64, 64, 3, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Flatten(), lib.Linear(1600, 128, **weights), lib.ReLU(), lib.Linear(128, 10, **weights),
    )  # fmt: skip


def lenet(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 6, 5, padding=2, **weights), lib.Tanh(), lib.AvgPool2d(2),
        lib.Conv2d(6, 16, 5, **weights), lib.Sigmoid(), lib.AvgPool2d(2),
        lib.Flatten(), lib.Linear(400, 120, **weights), lib.Tanh(),
        lib.Linear(120, 84, **weights), lib.Tanh(), lib.Linear(84, 10, **weights), lib.Softmax(1),
    )  # fmt: skip


def cifar_net(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(3, 6, 5, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(6, 16, 5, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Flatten(), lib.Linear(400, 120, **weights), lib.ReLU(),
        lib.Linear(120, 84, **weights), lib.ReLU(), lib.Linear(84, 10, **weights),
    )  # fmt: skip


def alexnet_like(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(3, 16, 5, stride=2, padding=2, **weights), lib.ReLU(),
        lib.LocalResponseNorm(5, 1e-4, 0.75, 2.0), lib.MaxPool2d(3, 2),
        lib.Conv2d(16, 24, 3, padding=1, groups=2, bias=False, **weights), lib.BatchNorm2d(24), lib.ReLU(),
        lib.MaxPool2d(2, ceil_mode=True), lib.AdaptiveAvgPool2d((2, 2)),
        lib.Flatten(), lib.Dropout(0.5), lib.Linear(96, 10, **weights),
    )  # fmt: skip


def simple_conv_net(lib: Any = nn, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 30, 5, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Flatten(), lib.Linear(30 * 12 * 12, 100, **weights), lib.ReLU(), lib.Linear(100, 10, **weights),
    )  # fmt: skip


def deep_conv_net(lib: Any = nn, dropout: float = 0.0, **weights: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 16, 3, padding=1, **weights), lib.ReLU(),
        lib.Conv2d(16, 16, 3, padding=1, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(16, 32, 3, padding=1, **weights), lib.ReLU(),
        lib.Conv2d(32, 32, 3, padding=2, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(32, 64, 3, padding=1, **weights), lib.ReLU(),
        lib.Conv2d(64, 64, 3, padding=1, **weights), lib.ReLU(), lib.MaxPool2d(2),
        lib.Flatten(), lib.Linear(64 * 4 * 4, 50, **weights), lib.ReLU(), lib.Dropout(dropout),
        lib.Linear(50, 10, **weights), lib.Dropout(dropout),
    )  # fmt: skip


NETWORKS = {
    net2: (1, 28, 28), keras_cnn: (1, 28, 28), lenet: (1, 28, 28), cifar_net: (3, 32, 32), alexnet_like: (3, 32, 32),
    simple_conv_net: (1, 28, 28), deep_conv_net: (1, 28, 28),
}  # fmt: skip
EVERY_NETWORK = pytest.mark.parametrize(
    ("make", "shape"), NETWORKS.items(), ids=lambda value: getattr(value, "__name__", "")
)


@EVERY_NETWORK
def test_states_pass_both_ways_and_outputs_are_pytorchs(make, shape):
    torch = pytest.importorskip("torch")
    ours, theirs, x = make(rng=1), make(torch.nn), draw(8, *shape)
    ours(x)  # moves the running statistics, where there are any
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), rtol=0, atol=2e-5)
        theirs = make(torch.nn).eval()
        ours.load_state_dict(theirs.state_dict())
        assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), rtol=0, atol=2e-5)
        for name, tensor in theirs.state_dict().items():
            assert_array_equal(ours.state_dict()[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize(("make", "shape"), [pair for pair in NETWORKS.items() if pair[0] is not alexnet_like])
def test_training_is_pytorchs(make, shape):
    """Five steps of SGD in float64; without dropout, whose random numbers differ."""
    torch = pytest.importorskip("torch")
    ours, theirs = make(rng=1, dtype=np.float64), make(torch.nn).double()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    optimizer, their_optimizer = optimizers.SGD(0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    loss, their_loss = nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    for seed in range(5):
        x, t = draw(4, *shape, dtype=np.float64, seed=seed), np.random.default_rng(seed).integers(0, 10, 4)
        value = loss(ours(x), t)
        ours.backward(loss.backward())
        optimizer.update(ours.parameters(), ours.grads)
        their_optimizer.zero_grad()
        their_value = their_loss(theirs(torch.from_numpy(x)), torch.from_numpy(t))
        their_value.backward()
        their_optimizer.step()
        assert_allclose(value, their_value.item(), rtol=1e-9)
    for name, tensor in theirs.state_dict().items():
        assert_allclose(ours.state_dict()[name], tensor.numpy(), rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("book", "make"), [(SimpleConvNet, simple_conv_net), (DeepConvNet, deep_conv_net)])
def test_both_families_are_one(book, make):
    """A network of the book and the same layers of `npconv.nn`: equal scores, and equal gradients."""
    theirs, ours = book(rng=1), make(dtype=np.float64)
    for layer in theirs.layers.values():
        if isinstance(layer, Dropout):
            layer.dropout_ratio = 0.0
    # The book's affine layers multiply from the other side: their weights are (inputs, outputs).
    turned = [array.T if array.ndim == 2 else array for array in theirs.params.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), turned, strict=True)))
    x, t = draw(6, 1, 28, 28, dtype=np.float64), np.arange(6)
    loss = nn.CrossEntropyLoss()
    assert_allclose(ours(x), theirs.predict(x), rtol=0, atol=1e-12)
    assert_allclose(loss(ours(x), t), theirs.loss(x, t), rtol=1e-5)  # the book adds 1e-7 inside of the logarithm
    ours.backward(loss.backward())
    for grad, their_grad in zip(ours.grads.values(), theirs.gradient(x, t).values(), strict=True):
        assert_allclose(grad, their_grad.T if their_grad.ndim == 2 else their_grad, rtol=0, atol=1e-12)


# ---- fused ----


@EVERY_NETWORK
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_is_its_layers_one_by_one(make, shape, dtype):
    model = make(rng=1, dtype=dtype).eval()  # eval: dropout would draw anew, running statistics would move
    x = draw(5, *shape, dtype=dtype)
    dy = draw(5, 10, dtype=dtype, seed=4)
    y, dx, grads = step_by_step(model, x, dy)
    assert same_bits(model(x), y)
    assert same_bits(model.backward(dy), dx)
    assert list(model.grads) == list(model.parameters()) == list(grads)
    for name, grad in grads.items():
        assert same_bits(model.grads[name], grad), name

    model.needs_dx = False
    assert model.backward(dy) is None
    for name, grad in grads.items():
        assert same_bits(model.grads[name], grad), name
    model.needs_dx = True
    assert same_bits(model.backward(dy), dx)


FUSED = itertools.product(
    [
        {},
        {"stride": 2, "padding": 1},
        {"bias": False, "groups": 2, "dilation": 2},
        {"padding": "same"},
        {"stride": (1, 2), "padding": ((0, 1), (2, 1))},
    ],
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, {"kernel_size": (1, 2)}],
    [False, True],
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pool_first", [False, True])
def test_backward_layer_by_layer_after_layers_ran_as_one(training, pool_first):
    tail = [nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Conv2d(2, 4, 3, rng=0), *(reversed(tail) if pool_first else tail)).train(training)
    x, before = draw(3, 2, 13, 14), draw(3, 2, 13, 14, seed=5)
    y = model(x)
    dy = draw(*y.shape, seed=4)
    expected, grads = model.backward(dy), model.grads
    for layer in model:
        before = layer(before)  # what the layers keep of other images is in nobody's way
    assert same_bits(model(x), y)
    dx = dy
    for layer in reversed(list(model)):
        dx = layer.backward(dx)
    assert same_bits(dx, expected)
    assert same_bits(model[0].grads["weight"], grads["0.weight"])


def test_windows_without_a_pixel_are_minus_infinity():
    """Padding and dilation allow for them; run as one, the layers would make 0."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, rng=0), nn.ReLU(), nn.MaxPool2d(2, 1, 1, 2))
    x = draw(1, 1, 1, 4)
    y = x
    for layer in model:
        y = layer(y)
    assert np.isneginf(y).any()
    assert same_bits(model(x), y)


@pytest.mark.parametrize(("of_conv", "of_pool", "pool_first"), list(FUSED))
def test_convolution_relu_and_pooling_are_fused(of_conv, of_pool, pool_first):
    def model(fused: bool) -> nn.Sequential:
        conv = nn.Conv2d(2, 4, 3, **of_conv, rng=0)
        between = [] if fused else [nn.Flatten(1, 1)]  # which does nothing, but stands between
        tail = [nn.MaxPool2d(**of_pool), nn.ReLU()] if pool_first else [nn.ReLU(), nn.MaxPool2d(**of_pool)]
        return nn.Sequential(nn.Tanh(), conv, *between, *tail)

    fused, plain = model(True), model(False)
    assert [type(step) for step in fused._steps] == [nn.Tanh, ConvolutionReluPooling]
    assert len(plain._steps) == 5
    x = draw(3, 2, 13, 14)
    y = plain(x)
    assert same_bits(fused(x), y)
    dy = draw(*y.shape, seed=4)
    assert same_bits(fused.backward(dy), plain.backward(dy))
    for grad, plain_grad in zip(fused.grads.values(), plain.grads.values(), strict=True):
        assert same_bits(grad, plain_grad)
    assert list(fused.grads) == list(fused.parameters())
    pool = plain[3 if pool_first else 4]
    taps = fused[2 if pool_first else 3].taps
    width = plain[1](plain[0](x)).shape[3]
    where = indices_of(taps, y.shape[3], width, *pool.window)
    assert_array_equal(where, np.where(y > 0, pool.indices, -1))


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2, return_indices=True)],
        [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d((2, 128), padding=(0, 62))],
        [nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(2, 3, 3, padding="same"), nn.ReLU(), nn.AvgPool2d(2)],
    ],
)
def test_other_pooling_is_left_behind_convolution_and_relu(layers):
    model = nn.Sequential(*layers)
    assert [type(step) for step in model._steps] == [ConvolutionRelu, type(layers[2])]
    assert model._steps[1] is layers[2]
    x = draw(2, 2, 9, 9)
    y = model(x)
    dy = draw(*(y[0] if isinstance(y, tuple) else y).shape, seed=4)
    y_alone, dx, grads = step_by_step(model, x, dy)
    if isinstance(y, tuple):
        (y, indices), (y_alone, indices_alone) = y, y_alone
        assert indices.dtype == np.int64
        assert_array_equal(indices, indices_alone)
    assert same_bits(y, y_alone)
    assert same_bits(model.backward(dy), dx)
    assert all(same_bits(model.grads[name], grad) for name, grad in grads.items())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 3, 3), nn.Tanh(), nn.MaxPool2d(2)],
        [nn.ReLU(), nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)],
    ],
)
def test_other_neighbours_are_not_fused(layers):
    model = nn.Sequential(*layers)
    assert model._steps == layers
    x = draw(2, 2, 9, 9)
    y = model(x)
    dy = draw(*y.shape, seed=4)
    assert same_bits(model.backward(dy), step_by_step(model, x, dy)[1])


def test_single_images_pass_too():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2))
    x = draw(3, 2, 9, 9)
    y = model(x)
    dx = model.backward(np.ones_like(y))
    assert_allclose(model(x[1]), y[1], rtol=0, atol=1e-6)
    assert_allclose(model.backward(np.ones_like(y[1])), dx[1], rtol=0, atol=1e-6)
    model.needs_dx = False
    assert model.backward(np.ones_like(y[1])) is None
    assert_allclose(model(x)[1], y[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("needs_dx", [True, False])
def test_backward_after_a_forward_in_eval_mode(needs_dx):
    model = nn.Sequential(nn.Conv2d(2, 20, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2))
    model.needs_dx = needs_dx
    x, dy = draw(3, 2, 9, 9), draw(3, 20, 3, 3, seed=1)
    y = model(x)
    dx, grads = model.backward(dy), model.grads
    model.eval()
    assert same_bits(model(x), y)
    assert model[2].taps is None  # only backward needs them
    again = model.backward(dy)
    assert same_bits(again, dx) if needs_dx else again is dx is None
    assert all(same_bits(model.grads[name], grad) for name, grad in grads.items())


def test_one_call_of_the_fused_operator(monkeypatch):
    calls = []
    original = functional.conv2d_relu_max_pool2d

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[1].shape)
        return original(*args, **kwargs)

    monkeypatch.setattr(functional, "conv2d_relu_max_pool2d", counted)
    cifar_net()(draw(1, 3, 32, 32))
    assert calls == [(6, 3, 5, 5), (16, 6, 5, 5)]


# ---- a container ----


def test_layers_by_place_name_and_slice():
    conv, relu, pool = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)
    model = nn.Sequential({"conv": conv, "relu": relu, "pool": pool})
    assert len(model) == 3
    assert list(model) == [conv, relu, pool]
    assert model[0] is model["conv"] is conv
    assert model[-1] is pool
    head = model[:2]
    assert list(head.layers) == ["conv", "relu"]
    assert list(head.parameters()) == list(model.parameters()) == ["conv.weight", "conv.bias"]
    assert head.parameters()["conv.weight"] is conv.weight
    assert list(nn.Sequential(conv, relu).parameters()) == ["0.weight", "0.bias"]
    with pytest.raises(TypeError, match=r"Sequential: layer '1' is <class .*ReLU'>; needed is a layer"):
        nn.Sequential(conv, nn.ReLU)
    with pytest.raises(ValueError, match="Sequential: a layer stands in two places"):
        nn.Sequential(conv, relu, nn.Sequential(pool, relu))


def test_a_sequential_in_a_sequential():
    def part(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 3, 3, rng=0), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))

    nested = nn.Sequential(part(2), part(3), nn.Flatten())
    flat = nn.Sequential(*part(2), *part(3), nn.Flatten())
    assert list(nested.parameters())[:3] == ["0.0.weight", "0.0.bias", "0.1.weight"]
    assert "1.1.running_mean" in nested.state_dict()
    x = draw(3, 2, 14, 14)
    y = flat(x)
    assert same_bits(nested(x), y)
    dy = draw(*y.shape)
    assert same_bits(nested.backward(dy), flat.backward(dy))
    for grad, flat_grad in zip(nested.grads.values(), flat.grads.values(), strict=True):
        assert same_bits(grad, flat_grad)
    nested.needs_dx = False
    assert nested.backward(dy) is None
    nested.eval()
    assert not nested[1][1].training
    before = nested.state_dict()
    assert "0 (Sequential)" in nested.summary((2, 14, 14))
    assert list(nested.activations(x)) == ["0", "1", "2"]
    assert_array_equal(nested.state_dict()["1.1.running_mean"], before["1.1.running_mean"])


def test_a_step_of_an_optimizer_changes_the_layers():
    model = cifar_net(rng=0)
    x, t, loss, optimizer = draw(4, 3, 32, 32), np.array([1, 2, 3, 4]), nn.CrossEntropyLoss(), optimizers.SGD(0.1)
    weight, before = model[0].weight, model[0].weight.copy()
    first = loss(model(x), t)
    for _ in range(5):
        value = loss(model(x), t)
        model.backward(loss.backward())
        optimizer.update(model.parameters(), model.grads)
    assert model[0].weight is weight
    assert (weight != before).all()
    assert value < first


def test_networks_can_be_copied():
    model = alexnet_like(rng=0)
    twin = copy.deepcopy(model)
    x, weight = draw(2, 3, 32, 32), model[0].weight.copy()
    twin[0].weight += 1
    assert_array_equal(model[0].weight, weight)
    assert (twin.eval()(x) != model.eval()(x)).any()
    twin.load_state_dict(model.state_dict())
    assert same_bits(twin(x), model(x))


def test_errors_of_states_name_the_parameter():
    model = cifar_net()
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"Sequential.load_state_dict: missing are \['7.bias'\], unknown are \['b'\]"):
        model.load_state_dict({**{name: array for name, array in state.items() if name != "7.bias"}, "b": 1})
    with pytest.raises(ValueError, match=r"parameter '3.weight' has shape \(6, 3, 5, 5\)"):
        model.load_state_dict({**state, "3.weight": state["0.weight"]})


def test_backward_before_forward_names_the_layer():
    with pytest.raises(ValueError, match=r"Linear.backward needs a forward pass first"):
        cifar_net().backward(np.ones((2, 10)))
    with pytest.raises(ValueError, match=r"MaxPool2d.backward|Conv2d.backward"):
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)).backward(np.ones((2, 2, 2, 2)))


# ---- looking into it ----


def kept(model: nn.Sequential) -> list[Any]:
    """Return all that the layers hold."""
    return [{**vars(layer)} for layer in model]


@EVERY_NETWORK
def test_activations_are_every_layers_and_leave_no_trace(make, shape):
    model, x = make(rng=0), draw(2, *shape)
    model(draw(3, *shape, seed=5))
    before, state = kept(model), model.state_dict()
    results = model.activations(x)
    assert list(results) == [str(i) for i in range(len(model))]
    assert all(a[key] is b[key] for a, b in zip(before, kept(model), strict=True) for key in a)
    for name, array in model.state_dict().items():
        assert_array_equal(array, state[name])
    y = x
    for layer, result in zip(copy.deepcopy(model).eval(), results.values(), strict=True):
        y = layer(y)
        assert same_bits(result, y)


def test_activations_are_cast_as_predict_does():
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3, rng=0))
    x = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)
    assert_array_equal(model.activations(x)["2"], model.predict(x))
    assert model.activations(x.astype(np.float64))["2"].dtype == np.float32


@pytest.mark.parametrize("name", ["a.0", "", 3])
def test_names_that_would_collide(name):
    with pytest.raises(ValueError, match="needed is a name without a dot"):
        nn.Sequential({name: nn.ReLU()})


def test_summary_is_the_table_of_keras(capsys):
    model = nn.Sequential({"conv": nn.Conv2d(3, 6, 5), "norm": nn.BatchNorm2d(6), "pool": nn.MaxPool2d(2)})
    text = model.summary((3, 32, 32))
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("Layer (type)")
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["conv", "(Conv2d)", "(None,", "6,", "28,", "28)", "456"],
        ["norm", "(BatchNorm2d)", "(None,", "6,", "28,", "28)", "24"],
        ["pool", "(MaxPool2d)", "(None,", "6,", "14,", "14)", "0"],
        ["=" * len(text.splitlines()[0])],
        ["Total", "params:", "480"],
        ["Trainable", "params:", "468"],
        ["Non-trainable", "params:", "12"],
    ]
    assert len({len(line) for line in text.splitlines()[:6]}) == 1, "columns line up"


def test_summary_of_the_tutorials_network():
    assert "Total params: 243,786" in keras_cnn().summary((1, 28, 28))
    assert "Total params: 62,006" in cifar_net().summary((3, 32, 32))


@EVERY_NETWORK
def test_summary_has_the_shapes_and_leaves_no_trace(make, shape):
    model = make(rng=0)
    model(draw(2, *shape))
    before, state = kept(model), model.state_dict()
    text = model.summary(shape)
    assert all(a[key] is b[key] for a, b in zip(before, kept(model), strict=True) for key in a)
    for name, array in model.state_dict().items():
        assert_array_equal(array, state[name])
    shapes = [str((None, *result.shape[1:])) for result in model.activations(draw(2, *shape)).values()]
    assert [row.split(") ", 1)[1].rsplit("  ", 1)[0].strip() for row in text.splitlines()[2 : 2 + len(model)]] == shapes


def test_summary_names_the_layer_that_does_not_fit():
    with pytest.raises(ValueError, match=r"summary: layer 7 \(Linear\) takes no \(None, 256\): linear: x has 256"):
        cifar_net().summary((3, 28, 28))


def test_convnet_is_the_pattern():
    model = nn.convnet((1, 13, 12), [[4, 6], [8]], [20, 16], 5, kernel_size=5, pool=2, rng=0, dtype=np.float64)
    kinds = [type(layer).__name__ for layer in model]
    expected = "Conv2d ReLU Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear ReLU Linear"
    assert kinds == expected.split()
    shapes = [array.shape for name, array in model.parameters().items() if name.endswith("weight")]
    assert shapes == [(4, 1, 5, 5), (6, 4, 5, 5), (8, 6, 5, 5), (20, 8 * 3 * 3), (16, 20), (5, 16)]
    y = model(draw(2, 1, 13, 12, dtype=np.float64))
    assert y.shape == (2, 5)
    assert y.dtype == np.float64
    assert same_bits(nn.convnet(rng=1)[0].weight, nn.convnet(rng=1)[0].weight)
    assert not np.isin(model[2].weight, model[5].weight).any(), "one stream of random numbers"
    assert len(nn.convnet((1, 4, 4), [[2]] * 5, [], pool=None)) == 12
    with pytest.raises(ValueError, match=r"convnet: images of \(1, 4, 4\) are too small for 3 poolings by 2"):
        nn.convnet((1, 4, 4), [[2]] * 3)
