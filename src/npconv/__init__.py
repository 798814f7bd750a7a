"""npconv: fast convolution for NumPy.

`npconv.conv2d` and its relatives work on ndarrays; `npconv.layers` holds the layers of *Deep Learning from Scratch*
(K. Saitoh) under the book's names, `npconv.models` its networks, `npconv.datasets` the data they are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    from npconv import _core
except ImportError as error:
    raise ImportError(
        f"npconv: its compiled part does not load: {error}\n"
        "If an environment variable is to blame, correct it; otherwise install npconv again (pip install "
        "--force-reinstall npconv), or, in a source tree, build it (pip install .)."
    ) from error

from npconv import datasets, functional, layers, models, nn, optimizers
from npconv.functional import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    affine,
    affine_backward,
    avg_pool2d,
    avg_pool2d_backward,
    batch_norm,
    batch_norm_backward,
    col2im,
    conv2d,
    conv2d_backward,
    conv_output_size,
    conv_transpose2d,
    conv_transpose2d_backward,
    fold,
    im2col,
    linear,
    linear_backward,
    local_response_norm,
    local_response_norm_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
    max_unpool2d_backward,
    relu,
    relu_backward,
    unfold,
)
from npconv.functional._gate import as_int
from npconv.trainer import Trainer

__all__ = [
    "Trainer",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "affine",
    "affine_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "build_info",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv_output_size",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "datasets",
    "fold",
    "functional",
    "get_num_threads",
    "im2col",
    "layers",
    "linear",
    "linear_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "models",
    "nn",
    "optimizers",
    "release_memory",
    "relu",
    "relu_backward",
    "set_num_threads",
    "threads",
    "unfold",
]

__version__: str = _core.build_info()["version"]


def get_num_threads() -> int:
    """Return how many threads an operator uses at most (1 in a forked child)."""
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads an operator uses at most, in the whole process.

    The default is OpenMP's (all cores, or OMP_NUM_THREADS); the environment variable NPCONV_NUM_THREADS sets another.
    Results do not depend on it. A build without OpenMP always uses one.

    Raises
    ------
    TypeError
        If n is no int.
    ValueError
        If n is below 1 or above 4096.
    """
    _core.set_num_threads(as_int("set_num_threads", "n", n))


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Set the number of threads inside a ``with`` block: ``with npconv.threads(1): ...``.

    Raises
    ------
    TypeError, ValueError
        As `set_num_threads`.
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def release_memory() -> None:
    """Give back to the system the memory that npconv keeps for its next results.

    The memory of large results that are no longer in use (at most 128 MiB) is kept, since fresh memory is slow.
    ``build_info()["kept_bytes"]`` tells how much that is now.
    """
    _core.release_memory()


def build_info() -> dict[str, Any]:
    """Return what this build is made of.

    Returns
    -------
    dict
        ``version``; ``compiler``; ``openmp`` (bool); the instruction sets ``isa_compiled`` (list, best first),
        ``isa_supported`` (those that this CPU has) and ``isa_in_use`` (the best of them, unless the environment
        variable NPCONV_ISA names another); ``kept_bytes``, see `release_memory`.
    """
    return _core.build_info()
