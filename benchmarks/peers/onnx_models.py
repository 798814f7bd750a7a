"""Writes what ONNX Runtime and OpenVINO run: the rows as ONNX models, with the weights in them."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from shapes import Conv, Pool

from peers import networks


def _model(nodes: list[Any], weights: dict[str, Any], shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> bytes:
    """Return a model from "x" to "y" in float32."""
    graph = helper.make_graph(
        nodes,
        "row",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # Versions of some years ago, which every runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


def conv(shape: Conv) -> tuple[bytes, Any, tuple[int, ...]]:
    """Return the model, its input, and the shape of its output."""
    x, weight, bias, dy = shape.arrays()
    options = {"strides": [shape.stride] * 2, "pads": [shape.padding] * 4}
    node = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **options)
    return _model([node], {"weight": weight, "bias": bias}, x.shape, dy.shape), x, dy.shape


def pool(shape: Pool) -> tuple[bytes, Any, tuple[int, ...]]:
    """Return the model, its input, and the shape of its output."""
    x = shape.array()
    shape_out = shape.n, shape.c, shape.out_size, shape.out_size
    options = {"kernel_shape": [shape.kernel] * 2, "strides": [shape.stride] * 2, "pads": [shape.padding] * 4}
    return _model([helper.make_node("MaxPool", ["x"], ["y"], **options)], {}, x.shape, shape_out), x, shape_out


def inference(network: str) -> tuple[bytes, Any, tuple[int, ...]]:
    """Return the model, its input, and the shape of its output."""
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    arrays = iter(networks.weights(network, "float32"))
    last, flat = "x", False

    def add(kind: str, *inputs: str, **options: Any) -> None:
        nonlocal last
        output = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *inputs], [output], **options))
        last = output

    for layer in networks.NETWORKS[network].layers:
        if layer.kind == "dense" and not flat:
            add("Flatten")
            flat = True
        if layer.kind in ("conv", "dense"):
            names = f"weight{len(nodes)}", f"bias{len(nodes)}"
            weights.update(zip(names, next(arrays), strict=True))
            options = {"pads": [layer.padding] * 4} if layer.kind == "conv" else {}
            add("Conv" if layer.kind == "conv" else "Gemm", *names, **options)
        elif layer.kind == "relu":
            add("Relu")
        elif layer.kind == "pool":
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    nodes[-1].output[0] = "y"
    x, _ = networks.batch(network, "float32")
    shape_out = len(x), networks.CLASSES
    return _model(nodes, weights, x.shape, shape_out), x, shape_out
