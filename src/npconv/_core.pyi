"""The compiled operators. Arrays are C-contiguous, native, float32 or float64, all of one dtype."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
_Pair = tuple[int, int]
_Padding = tuple[int, int, int, int]  # top, bottom, left, right

def ready_dtype(*objects: Any) -> np.dtype[Any] | None: ...
def conv2d(
    x: _Array,
    weight: _Array,
    bias: _Array | None,
    stride: _Pair,
    padding: _Padding,
    dilation: _Pair,
    groups: int,
    algorithm: int,
    relu: bool,
    /,
) -> _Array: ...
def conv2d_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    stride: _Pair,
    padding: _Padding,
    dilation: _Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
    algorithm: int,
    /,
) -> tuple[_Array | None, _Array | None, _Array | None]: ...
def conv_transpose2d(
    x: _Array,
    weight: _Array,
    bias: _Array | None,
    stride: _Pair,
    padding: _Padding,
    output_padding: _Pair,
    dilation: _Pair,
    groups: int,
    /,
) -> _Array: ...
def conv_transpose2d_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    stride: _Pair,
    padding: _Padding,
    output_padding: _Pair,
    dilation: _Pair,
    groups: int,
    needs: tuple[bool, bool, bool],
    /,
) -> tuple[_Array | None, _Array | None, _Array | None]: ...
def pad(op: str, x: _Array, padding: _Padding, mode: int, /) -> _Array: ...
def pad_backward(op: str, dy: _Array, padding: _Padding, mode: int, /) -> _Array: ...
def conv_output_size(input_size: int, filter_size: int, stride: int, pad: int, dilation: int, /) -> int: ...
def im2col(x: _Array, kernel: _Pair, stride: _Pair, padding: _Padding, /) -> _Array: ...
def col2im(col: _Array, input_shape: tuple[int, ...], kernel: _Pair, stride: _Pair, padding: _Padding, /) -> _Array: ...
def unfold(x: _Array, kernel: _Pair, stride: _Pair, padding: _Padding, dilation: _Pair, /) -> _Array: ...
def fold(
    columns: _Array, output_size: _Pair, kernel: _Pair, stride: _Pair, padding: _Padding, dilation: _Pair, /
) -> _Array: ...
def max_pool2d(
    x: _Array,
    kernel: _Pair,
    stride: _Pair,
    padding: _Pair,
    dilation: _Pair,
    ceil_mode: bool,
    return_indices: bool,
    /,
) -> tuple[_Array, Any]: ...
def max_pool2d_backward(dy: _Array, indices: _Array, input_size: tuple[int, ...], /) -> _Array: ...
def max_unpool2d(x: _Array, indices: _Array, output_size: tuple[int, ...], /) -> _Array: ...
def max_unpool2d_backward(dy: _Array, indices: _Array, output_size: tuple[int, ...], /) -> _Array: ...
def avg_pool2d(
    x: _Array,
    kernel: _Pair,
    stride: _Pair,
    padding: _Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: float,
    /,
) -> _Array: ...
def avg_pool2d_backward(
    dy: _Array,
    size: _Pair,
    kernel: _Pair,
    stride: _Pair,
    padding: _Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: float,
    /,
) -> _Array: ...
def adaptive_avg_pool2d(x: _Array, output_size: _Pair, /) -> _Array: ...
def adaptive_avg_pool2d_backward(dy: _Array, size: _Pair, /) -> _Array: ...
def batch_norm(
    x: _Array,
    weight: _Array | None,
    bias: _Array | None,
    mean: _Array | None,
    var: _Array | None,
    epsilon: float,
    /,
) -> tuple[_Array, _Array, _Array]: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    weight: _Array | None,
    mean: _Array | None,
    var: _Array | None,
    epsilon: float,
    training: bool,
    needs_dx: bool,
    /,
) -> tuple[_Array | None, _Array, _Array]: ...
def local_response_norm(x: _Array, size: int, alpha: float, beta: float, k: float, /) -> _Array: ...
def local_response_norm_backward(
    dy: _Array, x: _Array, y: _Array, size: int, alpha: float, beta: float, k: float, /
) -> _Array: ...
def conv2d_relu_max_pool2d(
    x: _Array,
    weight: _Array,
    bias: _Array | None,
    stride: _Pair,
    padding: _Padding,
    dilation: _Pair,
    groups: int,
    kernel: _Pair,
    pool_stride: _Pair,
    pool_padding: _Pair,
    pool_dilation: _Pair,
    ceil_mode: bool,
    return_taps: bool,
    /,
) -> tuple[_Array, _Array | None]: ...
def conv2d_relu_max_pool2d_backward(
    dy: _Array,
    taps: _Array,
    x: _Array,
    weight: _Array,
    stride: _Pair,
    padding: _Padding,
    dilation: _Pair,
    groups: int,
    kernel: _Pair,
    pool_stride: _Pair,
    pool_padding: _Pair,
    pool_dilation: _Pair,
    ceil_mode: bool,
    needs: tuple[bool, bool, bool],
    /,
) -> tuple[_Array | None, _Array | None, _Array | None]: ...
def gemm(a: _Array, b: _Array, bias: _Array | None, transpose_a: bool, transpose_b: bool, /) -> _Array: ...
def relu(x: _Array, /) -> _Array: ...
def relu_backward(dy: _Array, y: _Array, /) -> _Array: ...
def softmax_cross_entropy(x: _Array, t: _Array, epsilon: float, /) -> tuple[float, _Array]: ...
def softmax_cross_entropy_backward(y: _Array, t: _Array, scale: float, /) -> _Array: ...
def sgd_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def momentum_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def nesterov_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def adagrad_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def rmsprop_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def adam_update(
    params: Sequence[_Array], grads: Sequence[_Array], kept: Sequence[_Array], numbers: Sequence[float], /
) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...
def release_memory() -> None: ...
def build_info() -> dict[str, Any]: ...
