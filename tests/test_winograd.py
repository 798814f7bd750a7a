"""Convolution by Winograd's algorithm: the numbers of the matrix product, within the error that is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, assert_close, assert_fusing_changes_no_bit, assert_threads_change_no_bit, pairs
from hypothesis import given
from hypothesis import strategies as st

import npconv
from npconv import reference

ALGORITHMS = ("winograd2", "winograd4")
FORMS = [(2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (4, 2), (5, 2)]  # kernel and stride of those that "auto" chooses from


@st.composite
def convs_3x3(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, Any, int]:
    padding = draw(st.tuples(pairs(0, 4), pairs(0, 4)))
    dilation = draw(st.one_of(st.just((1, 1)), pairs(1, 6)))
    # With a dilation of more pixels than there are some of its phases have none.
    size = [max(1, 2 * d + 1 - sum(p)) + draw(st.integers(0, 20)) for p, d in zip(padding, dilation, strict=True)]
    groups = draw(st.integers(1, 3))
    # Around the vectors of channels: up to 32 of them.
    in_channels, out_channels = groups * draw(st.integers(1, 35)), groups * draw(st.integers(1, 35))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(0, 3)), in_channels, *size))
    weight = rng.standard_normal((out_channels, in_channels // groups, 3, 3))
    return x, weight, rng.standard_normal(out_channels), padding, dilation, groups


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=convs_3x3())
def test_forward_and_gradients_are_the_reference(algorithm: str, dtype: type, case: tuple) -> None:
    *arrays, padding, dilation, groups = case
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected = reference.conv2d(*arrays, 1, padding, dilation, groups)
    y = npconv.conv2d(x, weight, bias, 1, padding, dilation, groups, algorithm=algorithm)
    reduction = int(np.prod(weight.shape[1:]))
    # The transforms multiply rounding errors by a small factor.
    assert_close(y, expected, 30 * reduction)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    places = 1, padding, dilation, groups
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, *places, algorithm=algorithm)
    expected = reference.conv2d_backward(dy, *arrays[:2], *places)
    for a, e, terms in zip(gradients, expected, (reduction, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_all_forms_are_the_reference(dtype: type, data: st.DataObject) -> None:
    kernel, stride = data.draw(st.sampled_from(FORMS))
    padding = data.draw(st.tuples(pairs(0, kernel), pairs(0, kernel)))
    size = [max(1, kernel - sum(p)) + data.draw(st.integers(0, 20)) for p in padding]
    groups = data.draw(st.integers(1, 2))
    c, k = data.draw(st.integers(12, 40)), data.draw(st.integers(16, 40))  # of a group
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arrays = [rng.standard_normal((2, groups * c, *size)), rng.standard_normal((groups * k, c, kernel, kernel))]
    x, weight = (a.astype(dtype) for a in arrays)
    expected = reference.conv2d(*arrays, None, stride, padding, 1, groups)
    y = npconv.conv2d(x, weight, None, stride, padding, 1, groups)
    reduction = c * kernel**2
    assert_close(y, expected, 30 * reduction)
    dy = rng.standard_normal(y.shape)
    gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, stride, padding, 1, groups)
    expected = reference.conv2d_backward(dy, *arrays, stride, padding, 1, groups)
    for a, e, terms in zip(gradients, expected, (reduction, dy[:, 0].size, dy[:, 0].size), strict=True):
        assert_close(a, e, 30 * max(terms, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_few_channels_along_columns_are_the_reference(dtype: type, data: st.DataObject) -> None:
    height = data.draw(st.sampled_from([15, 16, 19, 20, 31, 36, 40]))
    width = data.draw(st.sampled_from([16, 30, 31, 32, 46, 48]))
    rows, cols = data.draw(pairs(0, 2)), data.draw(pairs(0, 2))
    groups, c, k = (data.draw(st.integers(low, high)) for low, high in ((1, 3), (8, 16), (8, 35)))
    if data.draw(st.booleans()):
        c = data.draw(st.integers(1, 7))  # its data gradient goes another way
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arrays = [
        rng.standard_normal((data.draw(st.integers(0, 3)), groups * c, height + 2 - sum(rows), width + 2 - sum(cols))),
        rng.standard_normal((groups * k, c, 3, 3)),
        rng.standard_normal(groups * k),
    ]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    places = 1, (rows, cols), 1, groups
    y = npconv.conv2d(x, weight, bias, *places)
    assert_close(y, reference.conv2d(*arrays, *places), 30 * 9 * c)
    dy = rng.standard_normal(y.shape)
    (dx, _, _) = npconv.conv2d_backward(dy.astype(dtype), x, weight, *places, needs=(True, False, False))
    (expected, _, _) = reference.conv2d_backward(dy, *arrays[:2], *places)
    assert_close(dx, expected, 30 * 9 * k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_larger_than_the_caches_are_those_of_each_image(dtype: type) -> None:
    """They are stored past the caches, and so must not be read too early."""
    rng = np.random.default_rng(11)
    x, weight = (rng.standard_normal(s).astype(dtype) for s in ((5, 3, 224, 224), (64, 3, 3, 3)))
    expected = [npconv.conv2d(image, weight, padding=1).tobytes() for image in x]
    for count in (1, 3):
        with npconv.threads(count):
            y = npconv.conv2d(x, weight, padding=1)
        assert y.nbytes > 48 << 20
        assert [image.tobytes() for image in y] == expected
    # Rows that are not a multiple of a vector are stored as usual.
    narrower = np.ascontiguousarray(x[..., 1:])
    y = npconv.conv2d(narrower, weight, padding=1)
    assert [npconv.conv2d(image, weight, padding=1).tobytes() for image in narrower] == [a.tobytes() for a in y]


# Several blocks of tiles, steps over channels and panels of them; odd sizes.
LARGE = [
    ((3, 70, 13, 13), (40, 70, 3, 3), 1),
    ((2, 150, 7, 7), (300, 150, 3, 3), 1),
    ((1, 40, 61, 230), (33, 40, 3, 3), 0),
    ((40, 33, 9, 10), (65, 33, 3, 3), 1),
    ((1, 3, 5, 1500), (4, 3, 3, 3), 2),
    ((2, 7, 100, 300), (21, 7, 3, 3), 1),  # "auto" goes along columns
    ((1, 16, 30, 62), (11, 16, 3, 3), 2),
    ((9, 40, 14, 25), (33, 40, 3, 3), 1),  # "auto" takes tiles of 5x5
    ((60, 33, 13, 9), (65, 33, 3, 3), 0),  # dx has more tiles than dy: these scatter
    ((3, 34, 41, 41), (33, 34, 3, 3), 0),  # ... more than a task usually has
    ((4, 200, 34, 18), (170, 200, 3, 3), 1),  # many weights, and too many to keep them transformed
    ((2, 390, 26, 26), (330, 390, 3, 3), 1),
]


LARGE_OTHERS = [  # with the stride
    ((2, 150, 14, 15), (70, 150, 2, 2), 1, 1),
    ((3, 13, 27, 28), (40, 13, 4, 4), 1, 2),
    ((3, 48, 27, 28), (65, 48, 5, 5), 1, 2),
    ((20, 33, 9, 9), (48, 33, 5, 5), 1, 0),  # dx has more tiles than dy: these scatter
    ((3, 70, 57, 56), (40, 70, 3, 3), 2, 1),
    ((20, 40, 26, 26), (130, 40, 4, 4), 2, 0),  # in each of dx's four phases, too
    ((2, 64, 28, 29), (150, 64, 4, 4), 2, 1),
    ((2, 40, 27, 30), (32, 40, 5, 5), 2, 2),
    ((2, 64, 30, 30), (32, 64, 6, 6), 2, 2),  # dx: four phases of 3x3
]


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "padding"), LARGE)
def test_larger_shapes_with_any_number_of_threads(
    algorithm: str, dtype: type, shape: tuple, weight_shape: tuple, padding: int
) -> None:
    check_with_any_number_of_threads(dtype, shape, weight_shape, 1, padding, algorithm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_shape", "stride", "padding"), LARGE_OTHERS)
def test_larger_shapes_of_other_forms_with_any_number_of_threads(
    dtype: type, shape: tuple, weight_shape: tuple, stride: int, padding: int
) -> None:
    check_with_any_number_of_threads(dtype, shape, weight_shape, stride, padding, "auto")


def check_with_any_number_of_threads(
    dtype: type, shape: tuple, weight_shape: tuple, stride: int, padding: int, algorithm: str
) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s) for s in (shape, weight_shape, weight_shape[:1])]
    x, weight, bias = (a.astype(dtype) for a in arrays)
    expected_y = reference.conv2d(*arrays, stride, padding)
    dy = rng.standard_normal(expected_y.shape)
    expected = expected_y, *reference.conv2d_backward(dy, *arrays[:2], stride, padding)

    def call() -> list[np.ndarray]:
        y = npconv.conv2d(x, weight, bias, stride, padding, algorithm=algorithm)
        gradients = npconv.conv2d_backward(dy.astype(dtype), x, weight, stride, padding, algorithm=algorithm)
        return [y, *gradients]

    results = assert_threads_change_no_bit(call)
    for a, e in zip(results, expected, strict=True):
        assert_close(a, e, 30 * max(dy[:, 0].size, int(np.prod(weight_shape[1:]))))


@pytest.mark.parametrize(
    ("algorithm", "kernel", "stride", "bound"),
    [
        ("gemm", 3, 1, 5e-6),
        ("winograd2", 3, 1, 5e-6),
        ("winograd4", 3, 1, 5e-5),
        *[("auto", *form, 5e-5) for form in FORMS],
    ],
)
@pytest.mark.parametrize("channels", [3, 16, 64, 256])
@pytest.mark.parametrize(("size", "padding"), [(28, 1), (13, 0), (14, 1)])
def test_error_is_within_the_documented_bound(
    algorithm: str, kernel: int, stride: int, bound: float, channels: int, size: int, padding: int
) -> None:
    """The largest error over the root mean square of the result, float32 against float64."""
    rng = np.random.default_rng(7)
    x, weight = rng.standard_normal((2, channels, size, size)), rng.standard_normal((64, channels, kernel, kernel))
    out = (size + 2 * padding - kernel) // stride + 1
    dy = rng.standard_normal((2, 64, out, out))
    x, weight, dy = (a.astype(np.float32) for a in (x, weight, dy))
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    actual = [npconv.conv2d(x, weight, algorithm=algorithm, **options)]
    actual += npconv.conv2d_backward(dy, x, weight, algorithm=algorithm, **options)[:2]
    wide = [a.astype(np.float64) for a in (x, weight, dy)]
    expected = [npconv.conv2d(*wide[:2], algorithm="gemm", **options)]
    expected += npconv.conv2d_backward(wide[2], *wide[:2], algorithm="gemm", **options)[:2]
    for a, e in zip(actual, expected, strict=True):
        assert np.abs(a - e).max() / np.sqrt(np.mean(e**2)) < bound


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [(7, 3, 1, 0), (12, 4, 2, 0), (13, 4, 2, 1)])
def test_transposed_convolution_with_a_bias(size: int, kernel: int, stride: int, padding: int) -> None:
    rng = np.random.default_rng(10)
    shapes = (20, 64, size, size), (64, 48, kernel, kernel), (48,)
    x, weight, bias = (rng.standard_normal(shape) for shape in shapes)
    expected = reference.conv_transpose2d(x, weight, bias, stride, padding)
    results = []
    for count in (1, 3):
        with npconv.threads(count):
            results.append(npconv.conv_transpose2d(x, weight, bias, stride, padding))
    assert_close(results[0], expected, 30 * 64 * kernel**2)
    assert results[0].tobytes() == results[1].tobytes()


def test_the_algorithms_differ_in_their_bits() -> None:
    """So each of them did run."""
    rng = np.random.default_rng(8)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 64, 30, 30), (64, 64, 3, 3)))
    results = {name: npconv.conv2d(x, weight, algorithm=name).tobytes() for name in ("gemm", *ALGORITHMS)}
    assert len(set(results.values())) == 3
    assert npconv.conv2d(x, weight).tobytes() in results.values()
    # Tiles of 5x5 fit these images better: nobody asks for them by name.
    small = np.ascontiguousarray(x[..., :15, :15])
    results = {name: npconv.conv2d(small, weight, padding=1, algorithm=name).tobytes() for name in results}
    assert npconv.conv2d(small, weight, padding=1).tobytes() not in results.values()


def test_few_channels_do_run_along_columns() -> None:
    rng = np.random.default_rng(12)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 8, 32, 32), (8, 8, 3, 3)))
    results = {name: npconv.conv2d(x, weight, algorithm=name).tobytes() for name in ("auto", "gemm", *ALGORITHMS)}
    assert len(set(results.values())) == 4
    # Small examples with whole numbers stay exact.
    x, weight = (rng.integers(-9, 9, s).astype(np.float32) for s in ((2, 8, 32, 32), (7, 8, 3, 3)))
    assert np.array_equal(npconv.conv2d(x, weight), reference.conv2d(x, weight))


@pytest.mark.parametrize(("kernel", "stride"), FORMS)
def test_all_forms_do_run(kernel: int, stride: int) -> None:
    """Their bits are not those of the matrix product. (AMX takes stride 2, but not fewer than 32 filters.)"""
    rng = np.random.default_rng(8)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 128, 56, 15), (31, 128, kernel, kernel)))
    y = npconv.conv2d(x, weight, None, stride)
    auto = [y, *npconv.conv2d_backward(y, x, weight, stride)[:2]]
    gemm = [npconv.conv2d(x, weight, None, stride, algorithm="gemm")]
    gemm += npconv.conv2d_backward(y, x, weight, stride, algorithm="gemm")[:2]
    assert all(a.tobytes() != g.tobytes() for a, g in zip(auto, gemm, strict=True))


@pytest.mark.parametrize(("kernel", "stride"), FORMS)
@pytest.mark.parametrize("size", [5, 7, 12, 33])
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 64), (3, 8), (64, 11)])
def test_few_channels_stay_exact(size: int, channels: int, filters: int, kernel: int, stride: int) -> None:
    """The transforms would round what whole numbers add up to."""
    rng = np.random.default_rng(11)
    x = rng.integers(-9, 10, (2, channels, size, size)).astype(np.float32)
    weight = rng.integers(-9, 10, (filters, channels, kernel, kernel)).astype(np.float32)
    y = npconv.conv2d(x, weight, None, stride, 1)
    np.testing.assert_array_equal(y, reference.conv2d(x, weight, None, stride, 1))
    dy = rng.integers(-9, 10, y.shape).astype(np.float32)
    expected = reference.conv2d_backward(dy, x, weight, stride, 1)
    for a, e in zip(npconv.conv2d_backward(dy, x, weight, stride, 1), expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 1, 1), (3, 2, 1), (3, 1, 33), (1, 1, 1)])
def test_other_convolutions_are_refused(algorithm: str, kernel: int, stride: int, dilation: int) -> None:
    x, weight = np.ones((1, 2, 70, 70)), np.ones((3, 2, kernel, kernel))
    with pytest.raises(ValueError, match=rf"conv2d: algorithm is '{algorithm}'.*3x3.*'auto'"):
        npconv.conv2d(x, weight, None, stride, 0, dilation, algorithm=algorithm)
    dy = npconv.conv2d(x, weight, None, stride, 0, dilation)
    with pytest.raises(ValueError, match=rf"conv2d_backward: algorithm is '{algorithm}'"):
        npconv.conv2d_backward(dy, x, weight, stride, 0, dilation, algorithm=algorithm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [14, 20, 21])  # with pixels left over, which no window has
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 0), (3, 1, 1), (3, 1, 2), (2, 1, 0), (5, 1, 2), (3, 2, 1), (4, 2, 1)]
)
@pytest.mark.parametrize("window", [(2, 2), (3, 3), (3, 2), (2, 1)])
def test_fused_with_relu_and_pooling_is_the_same(
    dtype: type, size: int, kernel: int, stride: int, padding: int, window: tuple[int, int]
) -> None:
    rng = np.random.default_rng(9)
    shapes = (5, 48, size, size + 2), (40, 48, kernel, kernel), (40,)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in shapes)
    assert_fusing_changes_no_bit((x, weight, bias), window, stride=stride, padding=padding)
