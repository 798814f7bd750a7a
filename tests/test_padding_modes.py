"""conv2d and its gradients on images that go on beyond their edges: reflected, replicated or circular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    ConvCase,
    assert_close,
    assert_float16_is_computed_in_float32,
    assert_layout_changes_no_bit,
    assert_threads_change_no_bit,
    numerical_gradient,
)
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
X, W = np.ones((1, 2, 4, 5)), np.ones((3, 2, 3, 3))


@st.composite
def padded_convs(draw: st.DrawFn, mode: str) -> ConvCase:
    """Draw the image first: reflection takes less padding than it has pixels, circular padding no more."""
    size = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    padding, kernel, dilation = [], [], []
    for n in size:
        most = {"reflect": n - 1, "replicate": 7, "circular": n}[mode]
        padding.append((draw(st.integers(0, min(most, 7))), draw(st.integers(0, min(most, 7)))))
        kernel.append(draw(st.integers(1, min(5, n + sum(padding[-1])))))
        spread = (n + sum(padding[-1]) - 1) // (kernel[-1] - 1) if kernel[-1] > 1 else 3
        dilation.append(draw(st.integers(1, min(3, spread))))
    groups = draw(st.integers(1, 3))
    in_channels, out_channels = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return ConvCase(
        rng.standard_normal((draw(st.integers(0, 3)), in_channels, *size)),
        rng.standard_normal((out_channels, in_channels // groups, *kernel)),
        rng.standard_normal(out_channels) if draw(st.booleans()) else None,
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
        groups,
    )


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("zeros", [0, 1, 2], [2, 3, 0]),
        ("reflect", [2, 1, 2], [2, 3, 2]),
        ("replicate", [1, 1, 2], [2, 3, 3]),
        ("circular", [3, 1, 2], [2, 3, 1]),
    ],
)
def test_the_pixel_before_and_the_pixel_after_by_hand(mode: str, before: list[int], after: list[int]) -> None:
    x = np.array([[[1.0, 2, 3]]])
    take_before, take_after = np.array([1.0, 0, 0]).reshape(1, 1, 1, 3), np.array([0, 0, 1.0]).reshape(1, 1, 1, 3)
    y = npconv.conv2d(x, take_before, padding=(0, 1), padding_mode=mode)
    np.testing.assert_array_equal(y, [[before]])
    y = npconv.conv2d(x, take_after, padding=(0, 1), padding_mode=mode)
    np.testing.assert_array_equal(y, [[after]])
    # The gradient goes back to the pixel that was taken.
    dy = np.array([[[1.0, 10, 100]]])
    dx, _, _ = npconv.conv2d_backward(dy, x, take_before, padding=(0, 1), padding_mode=mode)
    expected = [sum(int(d) for d, pixel in zip(dy[0, 0], before, strict=True) if pixel == value) for value in (1, 2, 3)]
    np.testing.assert_array_equal(dx, [[expected]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", NUMPY_MODES)
@given(data=st.data())
def test_forward_and_gradients_are_the_reference(mode: str, dtype: type, data: st.DataObject) -> None:
    case = data.draw(padded_convs(mode))
    x, weight = case.x.astype(dtype), case.weight.astype(dtype)
    bias = None if case.bias is None else case.bias.astype(dtype)
    y = npconv.conv2d(x, weight, bias, *case.arguments, padding_mode=mode)
    expected = reference.conv2d(*case[:3], *case.arguments, padding_mode=mode)
    assert y.dtype == dtype
    assert_close(y, expected, case.reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, *case.arguments, padding_mode=mode)
    expected_gradients = reference.conv2d_backward(dy, case.x, case.weight, *case.arguments, padding_mode=mode)
    # A pixel that is repeated gets the gradients of all its copies.
    terms = 10 * case.weight[:, 0].size, dy[:, 0].size, dy[:, 0].size
    for a, e, count in zip(gradients, expected_gradients, terms, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, count)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_it_is_np_pad_and_then_conv2d(rng: np.random.Generator, mode: str) -> None:
    x, weight = rng.standard_normal((2, 3, 8, 9)), rng.standard_normal((4, 3, 3, 3))
    padding = ((1, 2), (0, 4))
    padded = np.pad(x, [(0, 0), (0, 0), *padding], NUMPY_MODES[mode])
    y = npconv.conv2d(x, weight, padding=padding, stride=2, padding_mode=mode)
    np.testing.assert_allclose(y, npconv.conv2d(padded, weight, stride=2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("arguments", [(1, 1, 1, 1), (2, ((2, 0), (1, 3)), 1, 2), ((1, 2), 2, 2, 1)])
def test_gradients_are_finite_differences(rng: np.random.Generator, mode: str, arguments: tuple) -> None:
    x, weight = rng.standard_normal((2, 2, 4, 5)), rng.standard_normal((4, 2 // arguments[3], 3, 2))
    bias = rng.standard_normal(4)

    def forward() -> np.ndarray:
        return npconv.conv2d(x, weight, bias, *arguments, padding_mode=mode)

    dy = rng.standard_normal(forward().shape)
    gradients = npconv.conv2d_backward(dy, x, weight, *arguments, padding_mode=mode)
    for parameter, gradient in zip((x, weight, bias), gradients, strict=True):
        np.testing.assert_allclose(gradient, numerical_gradient(forward, parameter, dy), rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_same_and_valid(rng: np.random.Generator, mode: str, kernel: int, dilation: int) -> None:
    x, weight = rng.standard_normal((1, 2, 9, 12)), rng.standard_normal((3, 2, kernel, kernel))
    options: dict[str, Any] = {"dilation": dilation, "padding_mode": mode}
    same = npconv.conv2d(x, weight, padding="same", **options)
    assert same.shape == (1, 3, 9, 12)
    total = dilation * (kernel - 1)  # the odd pixel goes behind
    explicit = (total // 2, total - total // 2)
    np.testing.assert_array_equal(same, npconv.conv2d(x, weight, padding=(explicit, explicit), **options))
    valid = npconv.conv2d(x, weight, padding="valid", **options)
    np.testing.assert_allclose(valid, npconv.conv2d(x, weight, dilation=dilation), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("algorithm", ["auto", "gemm", "winograd2", "winograd4"])
def test_every_algorithm(rng: np.random.Generator, mode: str, algorithm: str) -> None:
    x, weight = rng.standard_normal((2, 33, 13, 14)), rng.standard_normal((35, 33, 3, 3))
    y = npconv.conv2d(x, weight, padding=1, padding_mode=mode, algorithm=algorithm)
    assert_close(y, reference.conv2d(x, weight, padding=1, padding_mode=mode), 30 * 297)
    dy = rng.standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy, x, weight, padding=1, padding_mode=mode, algorithm=algorithm)
    expected = reference.conv2d_backward(dy, x, weight, padding=1, padding_mode=mode)
    for a, e in zip(gradients, expected, strict=True):
        assert_close(a, e, 30 * 315)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize(
    ("shape", "weight_shape", "arguments"),
    [
        ((3, 20, 33, 35), (40, 20, 3, 3), (1, 1)),
        ((2, 24, 20, 20), (24, 1, 5, 5), (2, 2, 1, 24)),
        ((1, 3, 60, 700), (8, 3, 7, 7), (2, 3)),
        ((2, 4, 10, 11), (6, 4, 5, 5), (1, 8, 2)),
    ],
)
def test_larger_shapes_on_any_number_of_threads(
    dtype: type, mode: str, shape: tuple, weight_shape: tuple, arguments: tuple
) -> None:
    rng = np.random.default_rng(9)
    x, weight = rng.standard_normal(shape), rng.standard_normal(weight_shape)
    expected_y = reference.conv2d(x, weight, None, *arguments, padding_mode=mode)
    dy = np.sin(expected_y)
    expected = expected_y, *reference.conv2d_backward(dy, x, weight, *arguments, padding_mode=mode)

    def everything() -> tuple:
        arrays = x.astype(dtype), weight.astype(dtype)
        y = npconv.conv2d(*arrays, None, *arguments, padding_mode=mode)
        return y, *npconv.conv2d_backward(dy.astype(dtype), *arrays, *arguments, padding_mode=mode)

    for a, e in zip(everything(), expected, strict=True):
        assert_close(a, e, 30 * max(weight.size, dy[:, 0].size))
    assert_threads_change_no_bit(everything)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_needs_leaves_out(rng: np.random.Generator, mode: str) -> None:
    x, weight, dy = (
        rng.standard_normal((2, 3, 6, 6)),
        rng.standard_normal((4, 3, 3, 3)),
        rng.standard_normal((2, 4, 6, 6)),
    )
    everything = npconv.conv2d_backward(dy, x, weight, padding=1, padding_mode=mode)
    for needs in np.ndindex(2, 2, 2):
        some = npconv.conv2d_backward(dy, x, weight, padding=1, padding_mode=mode, needs=tuple(bool(n) for n in needs))
        for need, a, e in zip(needs, some, everything, strict=True):
            if need:
                np.testing.assert_array_equal(a, e)
            else:
                assert a is None


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_layout_makes_no_difference(rng: np.random.Generator, mode: str) -> None:
    x, weight, dy = (
        rng.standard_normal((2, 3, 5, 6)),
        rng.standard_normal((4, 3, 3, 3)),
        rng.standard_normal((2, 4, 5, 6)),
    )

    def everything(x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> tuple:
        y = npconv.conv2d(x, weight, padding=1, padding_mode=mode)
        return y, *npconv.conv2d_backward(dy, x, weight, padding=1, padding_mode=mode)

    for dtype in DTYPES:
        assert_layout_changes_no_bit(everything, *(a.astype(dtype) for a in (x, weight, dy)))
    assert_float16_is_computed_in_float32(everything, x, weight, dy)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_single_image_and_empty_batch(rng: np.random.Generator, mode: str) -> None:
    options: dict[str, Any] = {"padding": 2, "padding_mode": mode}
    x, weight = rng.standard_normal((3, 5, 6)), rng.standard_normal((4, 3, 3, 3))
    y = npconv.conv2d(x, weight, **options)
    np.testing.assert_array_equal(y, npconv.conv2d(x[np.newaxis], weight, **options)[0], strict=True)
    single = npconv.conv2d_backward(y, x, weight, **options)
    batch = npconv.conv2d_backward(y[np.newaxis], x[np.newaxis], weight, **options)
    np.testing.assert_array_equal(single[0], batch[0][0], strict=True)
    np.testing.assert_array_equal(single[1], batch[1], strict=True)

    empty = np.zeros((0, 3, 5, 6))
    y = npconv.conv2d(empty, weight, **options)
    assert y.shape == (0, 4, 7, 8)
    dx, dweight, dbias = npconv.conv2d_backward(y, empty, weight, **options)
    assert dx.shape == empty.shape
    assert not dweight.any()
    assert not dbias.any()


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_nan_shows_where_its_copies_are_seen(mode: str) -> None:
    x = np.zeros((1, 1, 6, 30))
    x[0, 0, 1, 28] = np.nan
    y = npconv.conv2d(x, np.ones((1, 1, 3, 3)), padding=2, padding_mode=mode, algorithm="gemm")
    padded = np.pad(x[0, 0], 2, NUMPY_MODES[mode])
    seen = np.lib.stride_tricks.sliding_window_view(np.isnan(padded), (3, 3)).any(axis=(2, 3))
    np.testing.assert_array_equal(np.isnan(y[0, 0]), seen)
    assert not y[0, 0][~seen].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: npconv.conv2d(X, W, padding=4, padding_mode="reflect"), "conv2d: .*padding.*4.*reflect|reflect.*4"),
        (lambda: npconv.conv2d(X, W, padding=((0, 0), (5, 0)), padding_mode="reflect"), "conv2d: .*padding"),
        (lambda: npconv.conv2d(X, W, padding=((0, 5), (0, 0)), padding_mode="circular"), "conv2d: .*padding"),
        (lambda: npconv.conv2d(X, W, padding=-1, padding_mode="replicate"), "conv2d: padding"),
        (lambda: npconv.conv2d(X, W, padding=1, padding_mode="edge"), "conv2d: padding_mode is 'edge'"),
        (lambda: npconv.conv2d(X, W, padding=1, padding_mode=None), "conv2d: padding_mode is None"),
        (
            lambda: npconv.conv2d_backward(np.ones((1, 3, 10, 11)), X, W, padding=4, padding_mode="reflect"),
            "conv2d_backward: .*padding",
        ),
        (
            lambda: npconv.conv2d_backward(np.ones((1, 3, 4, 6)), X, W, padding=1, padding_mode="circular"),
            r"conv2d_backward: dy has shape \(1, 3, 4, 6\)",
        ),
        (
            lambda: npconv.conv2d(X, W[:, :, :, :0], padding=1, padding_mode="circular"),
            "conv2d: the kernel size is",
        ),
        (lambda: npconv.conv2d(X[:, :, :0], W, padding=1, padding_mode="replicate"), r"conv2d: .*image .*\(0, 5\)"),
        (
            lambda: npconv.conv2d(X[:, :, :1, :1], np.ones((3, 2, 4, 4)), padding=1, padding_mode="circular"),
            r"conv2d: the window spans \(4, 4\)",
        ),
        (
            lambda: npconv.conv2d(X, W, padding=2**31 - 1, padding_mode="replicate"),
            "conv2d: the padded input would have more than",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
