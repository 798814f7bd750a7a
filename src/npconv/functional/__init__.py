"""The operators: stateless functions on ndarrays.

Each of them checks its arguments in the one gate (`_gate.py`), and then the compiled operator of the same name runs.

Two rules hold for all of them. The dtype of the result follows NumPy's promotion of the inputs (`x` and `weight` where
there are weights); float32 and float64 are native, float16 is computed in float32 and returned as float16. Inputs are
never written to, and results are new C-contiguous arrays.
"""

from npconv.functional.columns import col2im, fold, im2col, unfold
from npconv.functional.convolution import (
    conv2d,
    conv2d_backward,
    conv_output_size,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from npconv.functional.dense import (
    affine,
    affine_backward,
    linear,
    linear_backward,
    relu,
    relu_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from npconv.functional.fused import conv2d_relu, conv2d_relu_max_pool2d, conv2d_relu_max_pool2d_backward
from npconv.functional.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from npconv.functional.pooling import (
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
