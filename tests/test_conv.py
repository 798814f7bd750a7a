"""conv2d and its gradients: by hand, against plain NumPy, against finite differences, and the rules at the corners."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, ConvCase, assert_close, conv_cases
from hypothesis import given

import npconv
from npconv import reference


def test_4x4_by_3x3_by_hand() -> None:
    """A 4x4 image under a 3x3 filter: with x = [[1,2,3,0],[0,1,2,3],[3,0,1,2],[2,3,0,1]], sums of nine products."""
    x = np.array([[1, 2, 3, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]], float)[np.newaxis, np.newaxis]
    w = np.array([[2, 0, 1], [0, 1, 2], [1, 0, 2]], float)[np.newaxis, np.newaxis]
    # Top left: 1*2 + 2*0 + 3*1 + 0*0 + 1*1 + 2*2 + 3*1 + 0*0 + 1*2 = 15.
    np.testing.assert_array_equal(npconv.conv2d(x, w)[0, 0], [[15, 16], [6, 15]])
    np.testing.assert_array_equal(npconv.conv2d(x, w, np.array([3.0]))[0, 0], [[18, 19], [9, 18]])
    padded = [[7, 12, 10, 2], [4, 15, 16, 10], [10, 6, 15, 6], [8, 10, 4, 3]]
    np.testing.assert_array_equal(npconv.conv2d(x, w, padding=1)[0, 0], padded)
    np.testing.assert_array_equal(npconv.conv2d(x, w, padding=1, stride=2)[0, 0], np.array(padded)[::2, ::2])


def test_7x7_with_stride_2_by_hand() -> None:
    """A ramp under a filter of ones: nine times the middle pixel."""
    x = np.arange(49.0).reshape(1, 1, 7, 7)
    expected = 9 * x[0, 0, 1:6:2, 1:6:2]
    np.testing.assert_array_equal(npconv.conv2d(x, np.ones((1, 1, 3, 3)), stride=2)[0, 0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=conv_cases())
def test_forward_is_the_reference(dtype: type, case: ConvCase) -> None:
    x, weight = case.x.astype(dtype), case.weight.astype(dtype)
    bias = None if case.bias is None else case.bias.astype(dtype)
    y = npconv.conv2d(x, weight, bias, *case.arguments)
    assert y.dtype == dtype
    assert_close(y, reference.conv2d(case.x, case.weight, case.bias, *case.arguments), case.reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@given(case=conv_cases())
def test_gradients_are_the_reference(dtype: type, case: ConvCase) -> None:
    dy = np.random.default_rng(1).standard_normal(reference.conv2d(*case[:3], *case.arguments).shape)
    actual = npconv.conv2d_backward(*(a.astype(dtype) for a in (dy, case.x, case.weight)), *case.arguments)
    expected = reference.conv2d_backward(dy, case.x, case.weight, *case.arguments)
    terms = int(np.prod(case.weight.shape[:1] + case.weight.shape[2:])), dy[:, 0].size, dy[:, 0].size
    for a, e, count in zip(actual, expected, terms, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, count)


@pytest.mark.parametrize(
    ("shape", "weight_shape", "arguments"),
    [
        ((2, 3, 6, 7), (4, 3, 3, 2), (1, 0, 1, 1)),
        ((1, 4, 8, 9), (6, 2, 3, 3), (2, 1, 1, 2)),
        ((1, 2, 9, 8), (3, 2, 2, 3), ((3, 2), ((2, 0), (1, 3)), (2, 1), 1)),
    ],
)
def test_gradients_are_finite_differences(shape: tuple, weight_shape: tuple, arguments: tuple) -> None:
    """In float64 (f(p + h) - f(p - h)) / 2h of a linear function is exact but for rounding."""
    rng = np.random.default_rng(3)
    x, weight, bias = (
        rng.standard_normal(shape),
        rng.standard_normal(weight_shape),
        rng.standard_normal(weight_shape[0]),
    )
    dy = rng.standard_normal(npconv.conv2d(x, weight, bias, *arguments).shape)
    gradients = npconv.conv2d_backward(dy, x, weight, *arguments)
    for parameter, gradient in zip((x, weight, bias), gradients, strict=True):
        numerical = np.empty_like(parameter)
        for i in np.ndindex(parameter.shape):
            value, losses = parameter[i], []
            for step in (0.5, -0.5):
                parameter[i] = value + step
                losses.append(float((npconv.conv2d(x, weight, bias, *arguments) * dy).sum()))
            parameter[i] = value
            numerical[i] = losses[0] - losses[1]
        np.testing.assert_allclose(gradient, numerical, rtol=0, atol=1e-11)


# Long reductions, many channels, tiny and wide planes: every way the work is cut.
LARGE = [
    ((3, 70, 13, 13), (40, 70, 3, 3), (1, 1, 1, 1)),
    ((5, 130, 7, 7), (65, 130, 3, 3), (1, 1, 1, 1)),
    ((2, 400, 6, 5), (33, 400, 1, 1), (1, 0, 1, 1)),
    ((1, 2, 30, 1100), (3, 2, 3, 3), (1, 1, 1, 1)),
    ((1, 3, 45, 50), (2, 3, 21, 20), (1, 5, 1, 1)),
    ((2, 24, 20, 20), (24, 1, 5, 5), (2, 2, 1, 24)),
    ((1, 1, 1, 5000), (2, 1, 1, 9), (1, 0, 3, 1)),
    ((1, 1, 5000, 1), (2, 1, 9, 1), (2, 0, 3, 1)),
    ((3, 5, 40, 40), (70, 5, 11, 11), (4, 2, 1, 1)),
    # Vectors along the output channels: strides, groups and dilation, a kernel of many taps, wide rows.
    ((2, 40, 15, 17), (48, 40, 3, 3), (2, 1, 1, 1)),
    ((2, 40, 14, 11), (90, 20, 5, 3), (1, 2, 2, 2)),
    ((1, 2, 40, 45), (16, 2, 25, 24), (1, 3, 1, 1)),
    ((2, 32, 9, 40), (64, 32, 4, 4), (3, 2, 1, 1)),
    ((1, 12, 5, 1300), (32, 12, 5, 5), (1, 2, 1, 1)),
    ((2, 64, 7, 6), (96, 64, 5, 5), (1, 0, 1, 1)),
    # Single pixels: in groups; or as many outputs as inputs though they are not in the same places.
    ((2, 64, 32, 32), (70, 32, 1, 1), (1, 0, 1, 2)),
    ((3, 24, 2, 2), (40, 24, 1, 1), (2, ((0, 1), (0, 1)), 1, 1)),
    # The data gradient of few input channels, in several blocks of rows.
    ((2, 3, 190, 160), (20, 3, 5, 5), (2, 2, 1, 1)),
    ((1, 2, 300, 130), (10, 1, 7, 3), (3, 1, 2, 2)),
    # Depthwise: lanes of channels, as many as fill vectors and not, and planes in place, of stride 1 and 2.
    ((5, 40, 7, 7), (40, 1, 3, 3), (1, 1, 1, 40)),
    ((5, 19, 15, 12), (19, 1, 5, 5), (2, 2, 1, 19)),
    ((3, 33, 30, 41), (33, 1, 4, 7), (3, (1, 3), (2, 1), 33)),
    ((2, 6, 10, 9), (6, 1, 2, 2), (5, 0, 1, 6)),  # a stride with pixels that no tap meets
    ((3, 17, 60, 70), (17, 1, 3, 3), (2, 1, 1, 17)),
    ((2, 9, 90, 75), (9, 1, 5, 4), (2, 2, 1, 9)),
    ((2, 9, 90, 75), (9, 1, 5, 5), (1, 2, 1, 9)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "arguments"), LARGE)
def test_larger_shapes(dtype: type, shape: tuple, weight_shape: tuple, arguments: tuple) -> None:
    rng = np.random.default_rng(5)
    x, weight, bias = (
        rng.standard_normal(shape),
        rng.standard_normal(weight_shape),
        rng.standard_normal(weight_shape[0]),
    )
    y = reference.conv2d(x, weight, bias, *arguments)
    reduction = int(np.prod(weight_shape[1:]))
    assert_close(npconv.conv2d(*(a.astype(dtype) for a in (x, weight, bias)), *arguments), y, reduction)
    dy = rng.standard_normal(y.shape)
    actual = npconv.conv2d_backward(*(a.astype(dtype) for a in (dy, x, weight)), *arguments)
    expected = reference.conv2d_backward(dy, x, weight, *arguments)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, max(reduction, dy[:, 0].size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "arguments"), LARGE)
def test_threads_do_not_change_a_bit(dtype: type, shape: tuple, weight_shape: tuple, arguments: tuple) -> None:
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal(shape).astype(dtype), rng.standard_normal(weight_shape).astype(dtype)
    bias = rng.standard_normal(weight_shape[0]).astype(dtype)
    results = []
    for count in (1, 2, 3, 7):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, bias, *arguments)
            results.append((y, *npconv.conv2d_backward(np.sin(y), x, weight, *arguments)))
    for other in results[1:]:
        for first, a in zip(results[0], other, strict=True):
            assert first.tobytes() == a.tobytes()


@pytest.mark.parametrize("filters", [1, 4])
def test_strides_beyond_the_image(filters: int) -> None:
    x, weight = np.ones((1, 1, 5, 6)), np.full((filters, 1, 2, 2), 3.0)
    huge = 2**31 - 1
    y = npconv.conv2d(x, weight, stride=huge)
    assert y.shape == (1, filters, 1, 1)
    dx, dweight, dbias = npconv.conv2d_backward(y, x, weight, stride=huge)
    expected = np.zeros((5, 6))
    expected[:2, :2] = 3.0 * y.sum()
    np.testing.assert_array_equal(dx[0, 0], expected)
    assert (dweight == 12.0).all()
    assert (dbias == 12.0).all()


def test_needs_leaves_out(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((2, 3, 8, 8)), rng.standard_normal((4, 3, 3, 3))
    dy = rng.standard_normal((2, 4, 6, 6))
    everything = npconv.conv2d_backward(dy, x, weight)
    for needs in np.ndindex(2, 2, 2):
        some = npconv.conv2d_backward(dy, x, weight, needs=tuple(bool(n) for n in needs))
        for need, a, e in zip(needs, some, everything, strict=True):
            if need:
                np.testing.assert_array_equal(a, e)
            else:
                assert a is None


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_same_and_valid(rng: np.random.Generator, kernel: int, dilation: int) -> None:
    x, weight = rng.standard_normal((1, 2, 9, 12)), rng.standard_normal((3, 2, kernel, kernel))
    same = npconv.conv2d(x, weight, padding="same", dilation=dilation)
    assert same.shape == (1, 3, 9, 12)
    total = dilation * (kernel - 1)  # the odd pixel goes behind
    explicit = (total // 2, total - total // 2)
    np.testing.assert_array_equal(same, npconv.conv2d(x, weight, padding=(explicit, explicit), dilation=dilation))
    valid = npconv.conv2d(x, weight, padding="valid", dilation=dilation)
    np.testing.assert_array_equal(valid, npconv.conv2d(x, weight, dilation=dilation))


def test_single_image_is_a_batch_of_one(rng: np.random.Generator) -> None:
    x, weight, bias = rng.standard_normal((3, 8, 9)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    y = npconv.conv2d(x, weight, bias)
    np.testing.assert_array_equal(y, npconv.conv2d(x[np.newaxis], weight, bias)[0])
    single = npconv.conv2d_backward(y, x, weight)
    batch = npconv.conv2d_backward(y[np.newaxis], x[np.newaxis], weight)
    assert single[0].shape == x.shape
    np.testing.assert_array_equal(single[0], batch[0][0])
    np.testing.assert_array_equal(single[1], batch[1])


def test_empty_batch() -> None:
    x, weight = np.zeros((0, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    y = npconv.conv2d(x, weight, np.ones(4, np.float32), padding=1)
    assert y.shape == (0, 4, 8, 8)
    dx, dweight, dbias = npconv.conv2d_backward(y, x, weight, padding=1)
    assert dx.shape == x.shape
    assert not dweight.any()
    assert not dbias.any()


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x = np.zeros((1, 1, 6, 40))
    x[0, 0, 2, 3], x[0, 0, 5, 39] = np.nan, np.inf
    y = npconv.conv2d(x, np.ones((1, 1, 3, 3)), padding=1)
    expected = np.zeros((6, 40))
    expected[4:, 38:] = np.inf
    expected[1:4, 2:5] = np.nan
    np.testing.assert_array_equal(y[0, 0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "arguments"),
    [
        ((3, 40, 14, 14), (40, 1, 5, 5), (1, 2, 1, 40)),
        ((2, 5, 57, 61), (5, 1, 3, 3), (2, 1, 1, 5)),
        ((2, 4, 200, 90), (8, 1, 3, 2), (1, 1, 2, 4)),
        ((2, 6, 23, 24), (9, 2, 3, 3), (3, (1, 0), 1, 3)),
        ((9, 2, 7, 7), (6, 1, 7, 7), (1, 3, 1, 2)),
        ((2, 3, 20, 37), (3, 1, 8, 3), (1, (4, 1), 1, 3)),
        ((2, 4, 19, 21), (16, 2, 3, 3), (1, 1, 1, 2)),
        ((2, 2, 20, 19), (10, 1, 8, 3), (2, 2, 1, 2)),
    ],
)
def test_groups_of_few_channels(dtype: type, x_shape: tuple, weight_shape: tuple, arguments: tuple) -> None:
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(weight_shape).astype(dtype)
    bias = rng.standard_normal(len(weight)).astype(dtype)
    expected = reference.conv2d(x, weight, bias, *arguments)
    dy = np.sin(np.arange(expected.size, dtype=dtype)).reshape(expected.shape)
    gradients = reference.conv2d_backward(dy, x, weight, *arguments)
    results = []
    for count in (1, 2, 5):
        with npconv.threads(count):
            results.append(
                (npconv.conv2d(x, weight, bias, *arguments), *npconv.conv2d_backward(dy, x, weight, *arguments))
            )
    for actual, wanted, terms in zip(results[0], (expected, *gradients), (50, 50, dy.size, dy.size), strict=True):
        assert_close(actual, wanted, terms)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 31, 33, 49])
def test_depthwise_planes_of_any_height(dtype: type, width: int) -> None:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((2, 1, 3, 3)).astype(dtype)
    for height in range(1, 19):
        for stride in (1, 2):
            arguments = (stride, 1, 1, 2)
            x = rng.standard_normal((1, 2, height, width)).astype(dtype)
            y = reference.conv2d(x, weight, None, *arguments)
            dy = rng.standard_normal(y.shape).astype(dtype)
            assert_close(npconv.conv2d(x, weight, None, *arguments), y, 9)
            gradients = npconv.conv2d_backward(dy, x, weight, *arguments)
            for actual, expected in zip(gradients, reference.conv2d_backward(dy, x, weight, *arguments), strict=True):
                assert_close(actual, expected, dy.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding", "dilation"),
    [
        (7, 7, (3, 3), 1, 1, 1),
        (28, 28, (3, 3), 1, 1, 1),
        (12, 35, (5, 7), 1, (2, 3), 1),
        (19, 40, (3, 3), 1, (1, 2), (1, 2)),
        (9, 33, (3, 3), 1, 0, 1),
        (4, 5, (3, 2), 1, 21, 1),  # results further from the image than a vector is long
        (1, 1, (1, 1), 1, 9, 1),
        (40, 70, (8, 3), 1, ((7, 0), (1, 20)), 1),
        (14, 14, (3, 3), 2, 1, 1),
        (15, 13, (5, 4), 2, ((2, 1), (0, 3)), 1),
        (60, 61, (3, 3), 2, 1, 1),
        (61, 90, (5, 5), 2, 2, 1),
        (60, 90, (6, 2), 2, 1, 1),
        (60, 61, (3, 3), 2, (2, 30), (1, 2)),
        (33, 70, (3, 4), (1, 2), 1, 1),
        (17, 40, (3, 3), 3, 1, 1),
        (130, 40, (3, 1), 3, 1, 1),
    ],
)
@pytest.mark.parametrize("filters", [1, 3])
def test_depthwise_planes_keep_to_themselves(
    dtype: type,
    height: int,
    width: int,
    kernel: tuple,
    stride: object,
    padding: object,
    dilation: object,
    filters: int,
) -> None:
    rng = np.random.default_rng(5)
    channels = 17
    x = rng.standard_normal((2, channels, height, width)).astype(dtype)
    x[:, ::2] = np.nan  # what a plane's neighbours hold is next to its edges in memory
    weight = rng.standard_normal((channels * filters, 1, *kernel)).astype(dtype)
    y = npconv.conv2d(x, weight, None, stride, padding, dilation, channels)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dy[:, [i for i in range(len(weight)) if i // filters % 2 == 0]] = np.nan
    gradients = npconv.conv2d_backward(dy, x, weight, stride, padding, dilation, channels)
    for channel in range(1, channels, 2):
        its = slice(channel * filters, (channel + 1) * filters)
        for image in range(2):
            alone, dy_alone = x[image : image + 1, [channel]], dy[image : image + 1, its]
            expected = reference.conv2d(alone, weight[its], None, stride, padding, dilation)
            assert_close(y[image, its], expected[0], weight[0].size)
            dx = reference.conv2d_backward(dy_alone, alone, weight[its], stride, padding, dilation)[0]
            assert_close(gradients[0][image : image + 1, [channel]], dx, weight[its].size)
        of_both = reference.conv2d_backward(dy[:, its], x[:, [channel]], weight[its], stride, padding, dilation)
        for actual, wanted in zip((gradients[1][its], gradients[2][its]), of_both[1:], strict=True):
            assert_close(actual, wanted, dy[:, 0].size)


def test_an_infinity_stays_where_a_filter_sees_it() -> None:
    x = np.ones((1, 2, 5, 6))
    x[0, 0, 0, 5] = np.inf  # the last column, which the filter's first column never meets
    dweight = npconv.conv2d_backward(np.ones((1, 2, 5, 5)), x, np.ones((2, 1, 1, 2)), groups=2)[1]
    np.testing.assert_array_equal(dweight.ravel(), [25, np.inf, 25, 25])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3), 1, 7, 7),  # wider than the image: only the middle tap meets it
        ((3, 3), (2, 1), ((20, 0), (3, 3)), (10, 3)),
        ((4, 2), 1, ((9, 2), (0, 9)), (4, 9)),
        ((3, 5), (3, 2), ((4, 6), (40, 1)), (7, 9)),
        ((2, 3), 1, 100, 100),
        ((3, 3), 1, 2, 2),
    ],
)
def test_taps_that_meet_no_pixel(
    kernel: tuple, stride: int | tuple, padding: int | tuple, dilation: int | tuple
) -> None:
    """They are left out, and their weights get a gradient of zero."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 4, 6, 7)), rng.standard_normal((6, 2, *kernel))
    places = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2}
    y = npconv.conv2d(x, weight, **places)
    np.testing.assert_allclose(y, reference.conv2d(x, weight, **places), rtol=1e-12, atol=1e-12)
    dy = rng.standard_normal(y.shape)
    expected = reference.conv2d_backward(dy, x, weight, **places)
    for actual, wanted in zip(npconv.conv2d_backward(dy, x, weight, **places), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-12)

    pooled, taps = npconv.functional.conv2d_relu_max_pool2d(x, weight, **places, kernel_size=1)
    np.testing.assert_array_equal(pooled, np.maximum(y, 0))
    expected = npconv.conv2d_backward(np.where(y > 0, dy, 0), x, weight, **places)
    actual = npconv.functional.conv2d_relu_max_pool2d_backward(dy, taps, x, weight, **places, kernel_size=1)
    for gradient, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(gradient, wanted)


def test_a_dilation_far_beyond_the_image() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 4, 6, 7)), rng.standard_normal((6, 4, 3, 3))
    y = npconv.conv2d(x, weight, padding=2**20, dilation=2**20)
    np.testing.assert_array_equal(y, npconv.conv2d(x, weight[:, :, 1:2, 1:2]))
