"""ONNX Runtime: forward passes in float32, with input and output bound beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort

from peers import onnx_models
from peers.rows import Makers, Variants


def to_numpy(value: Any) -> Any:
    return value.numpy()


def tasks(threads: int, dtype: str) -> Makers:
    if dtype != "float32":
        return {}
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL

    def session(write: Callable[[Any], tuple[bytes, Any, tuple[int, ...]]]) -> Any:
        def make(subject: Any) -> Variants:
            model, x, shape_out = write(subject)
            made = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            y = np.empty(shape_out, np.float32)
            binding, borrowed = made.io_binding(), [ort.OrtValue.ortvalue_from_numpy(array) for array in (x, y)]
            binding.bind_ortvalue_input("x", borrowed[0])
            binding.bind_ortvalue_output("y", borrowed[1])

            def run() -> Any:
                made.run_with_iobinding(binding)
                return borrowed[1]  # keeps the arrays alive, too, which the binding does not

            return {"": run}

        return make

    return {
        "conv forward": session(onnx_models.conv),
        "pool forward": session(onnx_models.pool),
        "inference": session(onnx_models.inference),
    }
