"""The operators of `npconv.functional` in plain NumPy, as one would write them on a blackboard.

They are the oracle of the tests and the base line of the benchmarks: same names, arguments and results, no tricks and
no checks.
"""

from npconv.reference.columns import col2im, fold, im2col, unfold
from npconv.reference.convolution import (
    conv2d,
    conv2d_backward,
    conv_output_size,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from npconv.reference.dense import (
    affine,
    affine_backward,
    linear,
    linear_backward,
    relu,
    relu_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from npconv.reference.fused import conv2d_relu, conv2d_relu_max_pool2d, conv2d_relu_max_pool2d_backward
from npconv.reference.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from npconv.reference.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
    max_unpool2d_backward,
)

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "affine",
    "affine_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "conv2d_relu_max_pool2d_backward",
    "conv_output_size",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "fold",
    "im2col",
    "linear",
    "linear_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "relu",
    "relu_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "unfold",
]
