"""npconv against PyTorch over random configurations: same results, same gradients, same refusals.

Every configuration runs in float64 (agreement within 1e-10) and in float32 (to rounding, which grows with the root of
the terms summed), natively and, since it is the oracle of the other tests, in `npconv.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import DTYPES

from npconv import functional, reference

torch = pytest.importorskip("torch")
F = torch.nn.functional
Rng = np.random.Generator

# What PyTorch raises for arguments that it does not take.
REFUSALS = (RuntimeError, ValueError, IndexError, NotImplementedError)


class Case(NamedTuple):
    """One configuration: `forward` and `backward` of `ops` (a module of npconv), and PyTorch's forward.

    A forward returns its result, or a tuple: the result and what else must be equal.
    """

    arrays: Sequence[np.ndarray]
    forward: Callable[..., Any]  # (ops, *arrays)
    backward: Callable[..., Any]  # (ops, dy, outputs, *arrays) -> a gradient for each of the arrays
    torch: Callable[..., Any]  # (*tensors)
    terms: int = 1


def assert_agree(actual: Any, expected: Any, terms: int) -> None:
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    finite = np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected))
    atol = 1e-10 if actual.dtype == np.float64 else 1e-6 * max(1, terms) ** 0.5 * max(1, finite.max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def agrees(case: Case, ops: ModuleType, dtype: type, rng: Rng) -> bool:
    """Compare forward and backward; return whether PyTorch takes the configuration (npconv then must take it too)."""
    arrays = [a.astype(dtype) for a in case.arrays]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    try:
        expected = case.torch(*tensors)
    except REFUSALS:
        expected = None
    expected_y, *expected_others = expected if isinstance(expected, tuple) else (expected,)
    if expected_y is None or 0 in expected_y.shape[1:]:  # PyTorch has images without a pixel; npconv refuses them
        if ops is functional:  # the reference checks nothing
            with pytest.raises(ValueError, match=r"^\w+: "):
                case.forward(ops, *arrays)
        return False
    outputs = case.forward(ops, *arrays)
    y, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    assert_agree(y, expected_y, case.terms)
    for other, expected_other in zip(others, expected_others, strict=True):
        assert_agree(other, expected_other, case.terms)

    dy = rng.standard_normal(y.shape).astype(dtype)
    gradients = case.backward(ops, dy, outputs, *arrays)
    expected_gradients = torch.autograd.grad(expected_y, tensors, torch.from_numpy(dy))
    of_weights = max(case.terms, dy.size)  # they sum over all pixels
    terms = [case.terms, of_weights, of_weights][: len(tensors)]
    for gradient, expected_gradient, count in zip(gradients, expected_gradients, terms, strict=True):
        assert_agree(gradient, expected_gradient, count)
    return True


# ---- random arguments ----


def number(rng: Rng, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def int_or_pair(rng: Rng, low: int, high: int) -> Any:
    return number(rng, low, high) if rng.random() < 0.4 else (number(rng, low, high), number(rng, low, high))


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def images(rng: Rng, channels: int, low: int, high: int) -> np.ndarray:
    """Return a batch of up to three images, an empty batch or a single image (C, H, W)."""
    batch = [(), (0,), (1,), (2,), (3,)][number(rng, 0, 4)]
    return rng.standard_normal((*batch, channels, number(rng, low, high), number(rng, low, high)))


def half_of(rng: Rng, kernel: Any) -> Any:
    """Return a padding of up to half the kernel, now and then of more."""
    half = [k // 2 for k in pair(kernel)]
    return tuple(number(rng, 0, h) for h in half) if rng.random() < 0.85 else int_or_pair(rng, 0, 2)


def bias_or_none(rng: Rng, channels: int) -> list[np.ndarray]:
    return [rng.standard_normal(channels)] if rng.random() < 0.7 else []


def needs(arrays: Sequence[np.ndarray]) -> tuple[bool, bool, bool]:
    return True, True, len(arrays) == 3


def conv2d(rng: Rng, padding_mode: str) -> Case:
    kernel, groups = (number(rng, 1, 4), number(rng, 1, 4)), number(rng, 1, 3)
    x = images(rng, groups * number(rng, 1, 4), 1, 12)
    k = groups * number(rng, 1, 5)
    weight = rng.standard_normal((k, x.shape[-3] // groups, *kernel))
    stride, dilation = int_or_pair(rng, 1, 3), int_or_pair(rng, 1, 2)
    most = 4 if padding_mode in ("zeros", "replicate") else 2  # the others take no more than the image has
    sides = [(number(rng, 0, most), number(rng, 0, most)) for _ in "hw"]
    padding = [int_or_pair(rng, 0, most), "valid", "same", sides][number(rng, 0, 3)]
    if padding == "same" and rng.random() < 0.9:
        stride = 1  # the only one that "same" takes
    if rng.random() < 0.05:
        groups += 1
    arrays = [x, weight, *bias_or_none(rng, k)]
    arguments = stride, padding, dilation, groups

    def by_torch(x: Any, weight: Any, bias: Any = None) -> Any:
        if padding is sides:
            (top, bottom), (left, right) = padding
            mode = "constant" if padding_mode == "zeros" else padding_mode
            padded = F.pad(x, (left, right, top, bottom), mode)
            return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)
        module = torch.nn.Conv2d(
            x.shape[-3], k, kernel, *arguments, bias=bias is not None, padding_mode=padding_mode, dtype=x.dtype
        )
        parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return torch.func.functional_call(module, parameters, (x,))

    return Case(
        arrays,
        lambda ops, x, w, b=None: ops.conv2d(x, w, b, *arguments, padding_mode=padding_mode),
        lambda ops, dy, y, x, w, b=None: ops.conv2d_backward(
            dy, x, w, *arguments, padding_mode=padding_mode, needs=needs(arrays)
        )[: len(arrays)],
        by_torch,
        weight.size,
    )


def conv_transpose2d(rng: Rng) -> Case:
    kernel, groups = (number(rng, 1, 4), number(rng, 1, 4)), number(rng, 1, 3)
    x = images(rng, groups * number(rng, 1, 4), 1, 6)
    channels = number(rng, 1, 5)
    weight = rng.standard_normal((x.shape[-3], channels, *kernel))
    stride, dilation = int_or_pair(rng, 1, 3), int_or_pair(rng, 1, 3)
    padding, output_padding = int_or_pair(rng, 0, 3), 0
    if len(x) and rng.random() < 0.5:  # PyTorch does not look at it where the batch is empty
        output_padding = int_or_pair(rng, 0, 2)
    arguments = stride, padding, output_padding, groups, dilation
    arrays = [x, weight, *bias_or_none(rng, channels * groups)]
    return Case(
        arrays,
        lambda ops, x, w, b=None: ops.conv_transpose2d(x, w, b, *arguments),
        lambda ops, dy, y, x, w, b=None: ops.conv_transpose2d_backward(dy, x, w, *arguments, needs=needs(arrays))[
            : len(arrays)
        ],
        lambda x, w, b=None: F.conv_transpose2d(x, w, b, *arguments),
        weight.size,
    )


def max_pool2d(rng: Rng) -> Case:
    """Values with ties, NaN and infinities; images no smaller than the dilation, so that windows hold a pixel."""
    x = images(rng, number(rng, 1, 3), 2, 11)
    values = [[-1, 0, 1], [-np.inf, -np.inf, 0], [np.nan, -np.inf, -1, 0, 1, np.inf], rng.standard_normal(50)]
    x = rng.choice(np.array(values[number(rng, 0, 3)], float), x.shape)
    stride = None if rng.random() < 0.3 else int_or_pair(rng, 1, 4)
    kernel = int_or_pair(rng, 1, 4)
    arguments = kernel, stride, half_of(rng, kernel), int_or_pair(rng, 1, 2), rng.random() < 0.5
    return Case(
        [x],
        lambda ops, x: ops.max_pool2d(x, *arguments, return_indices=True),
        lambda ops, dy, outputs, x: [ops.max_pool2d_backward(dy, outputs[1], x.shape)],
        lambda x: F.max_pool2d(x, *arguments, return_indices=True),
    )


def max_unpool2d(rng: Rng) -> Case:
    """Indices of a max pooling, or any, several the same and now and then one beyond the plane."""
    kernel, stride = int_or_pair(rng, 1, 4), None if rng.random() < 0.5 else int_or_pair(rng, 1, 4)
    padding = int_or_pair(rng, 0, 1)
    x = images(rng, number(rng, 1, 3), 1, 6)
    steps = pair(kernel if stride is None else stride)
    size = [
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(x.shape[-2:], steps, pair(padding), pair(kernel), strict=True)
    ]
    output_size = None
    if rng.random() < 0.5:
        size = [n + number(rng, -s, s) if rng.random() < 0.3 else n for n, s in zip(size, steps, strict=True)]
        output_size = [*x.shape[:-2], *size] if x.ndim == 4 and rng.random() < 0.3 else size
    area = max(1, size[0] * size[1])
    indices = rng.integers(0, area, x.shape)
    if indices.size and rng.random() < 0.1:
        indices.flat[number(rng, 0, indices.size - 1)] = [-1, area][number(rng, 0, 1)]
    arguments = kernel, stride, padding, output_size
    return Case(
        [x],
        lambda ops, x: ops.max_unpool2d(x, indices, *arguments),
        lambda ops, dy, y, x: [ops.max_unpool2d_backward(dy, indices, x.shape)],
        lambda x: F.max_unpool2d(x, torch.from_numpy(indices), *arguments),
    )


def avg_pool2d(rng: Rng) -> Case:
    x = images(rng, number(rng, 1, 3), 1, 11)
    stride = None if rng.random() < 0.3 else int_or_pair(rng, 1, 4)
    divisor = [None, None, None, 1, 5, -2, 0][number(rng, 0, 6)]
    kernel, ceil_mode, count_include_pad = int_or_pair(rng, 1, 5), rng.random() < 0.5, rng.random() < 0.5
    arguments = kernel, stride, half_of(rng, kernel), ceil_mode, count_include_pad, divisor
    return Case(
        [x],
        lambda ops, x: ops.avg_pool2d(x, *arguments),
        lambda ops, dy, y, x: [ops.avg_pool2d_backward(dy, x.shape, *arguments)],
        lambda x: F.avg_pool2d(x, *arguments),
        25,
    )


def adaptive_avg_pool2d(rng: Rng) -> Case:
    x = images(rng, number(rng, 1, 3), 1, 12)
    size = [
        number(rng, 1, 14),
        *((one, two) for one in (None, number(rng, 1, 14)) for two in (None, number(rng, 1, 14))),
    ][number(rng, 0, 4)]
    return Case(
        [x],
        lambda ops, x: ops.adaptive_avg_pool2d(x, size),
        lambda ops, dy, y, x: [ops.adaptive_avg_pool2d_backward(dy, x.shape)],
        lambda x: F.adaptive_avg_pool2d(x, size),
        144,
    )


def local_response_norm(rng: Rng) -> Case:
    """Batches alone: PyTorch takes three axes for (N, C, L)."""
    x = rng.standard_normal((number(rng, 0, 3), number(rng, 1, 9), number(rng, 1, 6), number(rng, 1, 6)))
    arguments = number(rng, 1, 7), 10 ** rng.uniform(-4, 0.5), rng.uniform(0.3, 2), rng.uniform(0.5, 3)
    return Case(
        [x],
        lambda ops, x: ops.local_response_norm(x, *arguments),
        lambda ops, dy, y, x: [ops.local_response_norm_backward(dy, x, y, *arguments)],
        lambda x: F.local_response_norm(x, *arguments),
        10,
    )


def unfold(rng: Rng) -> Case:
    x = images(rng, number(rng, 1, 3), 1, 9)
    arguments = int_or_pair(rng, 1, 4), int_or_pair(rng, 1, 2), int_or_pair(rng, 0, 3), int_or_pair(rng, 1, 3)
    return Case(
        [x],
        lambda ops, x: ops.unfold(x, *arguments),
        lambda ops, dy, y, x: [ops.fold(dy, x.shape[-2:], *arguments)],
        lambda x: F.unfold(x, *arguments),
        16,
    )


def fold(rng: Rng) -> Case:
    kernel, dilation, padding, stride = arguments = (
        *(int_or_pair(rng, 1, 4), int_or_pair(rng, 1, 2)),
        *(int_or_pair(rng, 0, 3), int_or_pair(rng, 1, 3)),
    )
    size = int_or_pair(rng, 1, 9)
    sides = zip(pair(size), pair(kernel), pair(dilation), pair(padding), pair(stride), strict=True)
    places = np.prod([max(0, (n + 2 * p - d * (k - 1) - 1) // s + 1) for n, k, d, p, s in sides])
    rows, columns = number(rng, 1, 3) * np.prod(pair(kernel)), places
    if rng.random() < 0.1:  # a matrix that no image unfolds to
        rows, columns = rows + 1, columns + number(rng, 0, 1)
    batch = [(), (0,), (1,), (2,)][number(rng, 0, 3)]
    return Case(
        [rng.standard_normal((*batch, rows, columns))],
        lambda ops, x: ops.fold(x, size, *arguments),
        lambda ops, dy, y, x: [ops.unfold(dy, *arguments)],
        lambda x: F.fold(x, size, *arguments),
        16,
    )


def batch_norm(rng: Rng) -> Case:
    c, training, eps = number(rng, 1, 5), rng.random() < 0.6, 10 ** rng.uniform(-3, 0)
    n = 0 if not training and rng.random() < 0.2 else number(rng, 4, 8)
    x = rng.standard_normal((n, c, *rng.integers(1, 6, number(rng, 0, 3)))) + rng.standard_normal()
    arrays = [x] if rng.random() < 0.2 else [x, rng.standard_normal(c), rng.standard_normal(c)]
    mean, var = rng.standard_normal(c), rng.uniform(0.3, 3, c)

    def statistics(x: np.ndarray) -> dict[str, np.ndarray]:
        return {} if training else {"mean": mean.astype(x.dtype), "var": var.astype(x.dtype)}

    def backward(ops: Any, dy: Any, outputs: Any, x: Any, weight: Any = None, bias: Any = None) -> Any:
        return ops.batch_norm_backward(dy, x, weight, *outputs[1:], eps=eps, training=training)[: len(arrays)]

    def by_torch(x: Any, weight: Any = None, bias: Any = None) -> Any:
        axes = [0, *range(2, x.ndim)]
        if training:
            mean_, var_ = x.mean(axes), x.var(axes, correction=0)
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps), mean_, var_
        mean_, var_ = torch.tensor(mean, dtype=x.dtype), torch.tensor(var, dtype=x.dtype)
        return F.batch_norm(x, mean_, var_, weight, bias, eps=eps), mean_, var_

    return Case(
        arrays,
        lambda ops, x, w=None, b=None: ops.batch_norm(x, w, b, eps=eps, **statistics(x)),
        backward,
        by_torch,
        x.size,
    )


def linear(rng: Rng) -> Case:
    d, m = number(rng, 1, 40), number(rng, 1, 40)
    x, weight = rng.standard_normal((number(rng, 0, 9), d)), rng.standard_normal((m, d))
    arrays = [x, weight, *bias_or_none(rng, m)]
    return Case(
        arrays,
        lambda ops, x, w, b=None: ops.linear(x, w, b),
        lambda ops, dy, y, x, w, b=None: ops.linear_backward(dy, x, w, needs=needs(arrays))[: len(arrays)],
        lambda x, w, b=None: F.linear(x, w, b),
        40,
    )


CONFIGURATIONS: dict[str, tuple[Callable[[Rng], Case], int]] = {
    "conv2d-zeros": (partial(conv2d, padding_mode="zeros"), 300),
    "conv2d-reflect": (partial(conv2d, padding_mode="reflect"), 200),
    "conv2d-replicate": (partial(conv2d, padding_mode="replicate"), 200),
    "conv2d-circular": (partial(conv2d, padding_mode="circular"), 200),
    "conv_transpose2d": (conv_transpose2d, 300),
    "max_pool2d": (max_pool2d, 300),
    "max_unpool2d": (max_unpool2d, 250),
    "avg_pool2d": (avg_pool2d, 300),
    "adaptive_avg_pool2d": (adaptive_avg_pool2d, 150),
    "local_response_norm": (local_response_norm, 150),
    "unfold": (unfold, 150),
    "fold": (fold, 150),
    "batch_norm": (batch_norm, 200),
    "linear": (linear, 100),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("ops", [functional, reference], ids=["native", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_results_gradients_and_refusals(name: str, dtype: type, ops: ModuleType) -> None:
    draw, count = CONFIGURATIONS[name]
    rng = np.random.default_rng(list(name.encode()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the arrays are tiny; and of max_unpool2d's writes to one pixel the last then is the last
    try:
        taken = sum(agrees(draw(rng), ops, dtype, rng) for _ in range(count))
    finally:
        torch.set_num_threads(threads)
    assert taken >= 0.6 * count
