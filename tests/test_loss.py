"""Softmax and cross entropy: against the formulas in NumPy, by finite differences, and at the corners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import npconv
from npconv import functional as F
from npconv import layers, nn, reference


def draw(rng: np.random.Generator, rows: int, classes: int, kind: str, dtype: Any = np.float64) -> tuple[Any, Any]:
    """Return scores and targets: labels, one-hot rows, or probabilities."""
    x = (5 * rng.standard_normal((rows, classes))).astype(dtype)
    labels = rng.integers(0, classes, rows)
    weights = rng.random((rows, classes))
    kinds = {
        "labels": labels.astype(rng.choice([np.int8, np.uint16, np.int64])),
        "one-hot": np.eye(classes, dtype=int)[labels],
        "probabilities": weights / weights.sum(axis=1, keepdims=True),
        "weights": weights,  # whose sum is anything
    }
    return x, kinds[kind]


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 40),
    classes=st.integers(1, 30),
    kind=st.sampled_from(["labels", "one-hot", "probabilities", "weights"]),
    epsilon=st.sampled_from([0.0, 1e-7]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_against_the_formulas(seed, rows, classes, kind, epsilon, dtype):
    x, t = draw(np.random.default_rng(seed), rows, classes, kind, dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    loss, y = F.softmax_cross_entropy(x, t, epsilon)
    expected, expected_y = reference.softmax_cross_entropy(x.astype(np.float64), t, epsilon)
    assert y.dtype == dtype
    assert_allclose(loss, expected, rtol=tolerance, atol=tolerance)
    assert_allclose(y, expected_y, rtol=tolerance, atol=tolerance)
    dx = F.softmax_cross_entropy_backward(y, t, 3.0)
    assert dx.dtype == dtype
    assert_allclose(dx, reference.softmax_cross_entropy_backward(expected_y, t, 3.0), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["labels", "probabilities", "weights"])
def test_the_gradient_is_that_of_the_loss(kind):
    x, t = draw(np.random.default_rng(0), 3, 4, kind)
    dx = F.softmax_cross_entropy_backward(F.softmax_cross_entropy(x, t)[1], t)
    for i in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        difference = F.softmax_cross_entropy(x + step, t)[0] - F.softmax_cross_entropy(x - step, t)[0]
        assert_allclose(dx[i], difference / 2e-6, rtol=1e-7, atol=1e-9)


def test_any_number_of_threads_gives_the_same_bits():
    x, t = draw(np.random.default_rng(1), 500, 300, "labels", np.float32)
    with npconv.threads(1):
        loss, y = F.softmax_cross_entropy(x, t)
        dx = F.softmax_cross_entropy_backward(y, t)
    with npconv.threads(3):
        assert F.softmax_cross_entropy(x, t)[0] == loss
        assert_array_equal(F.softmax_cross_entropy(x, t)[1], y)
        assert_array_equal(F.softmax_cross_entropy_backward(y, t), dx)


def test_layouts_and_float16():
    x, t = draw(np.random.default_rng(2), 6, 5, "labels", np.float32)
    loss, y = F.softmax_cross_entropy(x, t)
    for given_x in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2]):
        for given_t in (t.astype(">i4"), np.repeat(t, 3)[::3]):
            assert F.softmax_cross_entropy(given_x, given_t)[0] == loss
            assert_array_equal(F.softmax_cross_entropy(given_x, given_t)[1], y)
    half = F.softmax_cross_entropy(x.astype(np.float16), t)
    assert half[1].dtype == np.float16
    assert_allclose(half[0], loss, rtol=1e-2)


def test_extreme_scores():
    large = np.array([[1e4, 0.0, -1e4]])
    assert F.softmax_cross_entropy(large, [0])[0] == 0
    assert F.softmax_cross_entropy(large, [2])[0] == 2e4
    assert_allclose(F.softmax_cross_entropy(large, [2], 1e-7)[0], -np.log(1e-7))
    assert F.softmax_cross_entropy(np.array([[0.0, -np.inf]]), [1])[0] == np.inf
    for row in ([np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [np.inf, 0.0, np.inf]):
        loss, y = F.softmax_cross_entropy(np.array([row, [0.0, 1.0, 2.0]]), [1, 1])
        assert np.isnan(loss)
        assert np.isnan(y[0]).any()
        assert np.isfinite(y[1]).all(), "the other rows are not touched by it"


@pytest.mark.parametrize(
    ("x", "t", "error", "message"),
    [
        (np.ones(3), [0], ValueError, r"x has shape \(3,\)"),
        (np.ones((0, 3)), [], ValueError, "N > 0"),
        (np.ones((2, 3)), [0, 1, 2], ValueError, r"t \(3,\); needed are"),
        (np.ones((2, 3)), [0, 3], ValueError, r"t holds the label 3; needed are labels in 0\.\.2"),
        (np.ones((2, 3)), [-1, 0], ValueError, "t holds the label -1"),
        (np.ones((2, 3)), [0.0, 1.0], TypeError, "labels must be integers, got dtype float64"),
        (np.ones((2, 3), int), [0, 1], TypeError, "x is int64"),
        (np.ones((2, 3)), np.ones((2, 3), complex), TypeError, "t is complex128"),
    ],
)
def test_errors(x, t, error, message):
    with pytest.raises(error, match="softmax_cross_entropy: .*" + message):
        F.softmax_cross_entropy(x, t)
    with pytest.raises(error, match="softmax_cross_entropy"):
        F.softmax_cross_entropy_backward(x, t)


def test_numbers_that_are_none():
    with pytest.raises(TypeError, match="softmax_cross_entropy: epsilon is 'x'; needed is a number"):
        F.softmax_cross_entropy(np.ones((2, 3)), [0, 1], "x")
    with pytest.raises(TypeError, match="softmax_cross_entropy_backward: scale is None; needed is a number"):
        F.softmax_cross_entropy_backward(np.ones((2, 3)), [0, 1], None)


# ---- the layers ----


def test_cross_entropy():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    for labels in (t, np.eye(4)[t]):
        loss = nn.CrossEntropyLoss()
        value = loss(x, labels)
        assert type(value) is float
        assert_allclose(value, -np.log(y[np.arange(6), t]).mean(), rtol=1e-12)
        assert_allclose(loss.backward(), (y - np.eye(4)[t]) / 6, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_improbable_labels_is_exact(dtype):
    x = np.array([[0, 200], [1e4, 0]], dtype)
    assert nn.CrossEntropyLoss()(x, np.array([0, 1])) == (200 + 1e4) / 2
    assert layers.SoftmaxWithLoss().forward(x, np.array([0, 1])) < 20, "the book's stops at -log(1e-7)"


def test_cross_entropy_is_pytorchs():
    torch = pytest.importorskip("torch")
    x = 100 * np.random.default_rng(0).standard_normal((50, 4))
    t = np.random.default_rng(1).integers(0, 4, 50)
    their_x = torch.from_numpy(x).requires_grad_()
    expected = torch.nn.CrossEntropyLoss()(their_x, torch.from_numpy(t))
    expected.backward()
    loss = nn.CrossEntropyLoss()
    assert_allclose(loss(x, t), expected.item(), rtol=1e-13)
    assert_allclose(loss.backward(), their_x.grad.numpy(), rtol=0, atol=1e-15)
