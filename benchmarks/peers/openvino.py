"""OpenVINO: forward passes in float32, in one stream, with input and output bound beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov

from peers import onnx_models
from peers.rows import Makers, Variants


def tasks(threads: int, dtype: str) -> Makers:
    if dtype != "float32":
        return {}
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bfloat16 where the CPU can
    }

    def request(write: Callable[[Any], tuple[bytes, Any, tuple[int, ...]]]) -> Any:
        def make(subject: Any) -> Variants:
            model, x, shape_out = write(subject)
            made = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
            y = np.empty(shape_out, np.float32)
            made.set_input_tensor(ov.Tensor(x, shared_memory=True))
            made.set_output_tensor(ov.Tensor(y, shared_memory=True))
            borrowed = x, y, model  # used to the end, but not kept alive by OpenVINO

            def run() -> Any:
                made.infer(share_outputs=True)  # else it hands out a copy, too
                return borrowed[1]

            return {"": run}

        return make

    return {
        "conv forward": request(onnx_models.conv),
        "pool forward": request(onnx_models.pool),
        "inference": request(onnx_models.inference),
    }
