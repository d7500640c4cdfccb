"""The artificial network of a synthetic shape as ONNX bytes: float32, and int8 in the QDQ form.

The int8 form takes and gives uint8, as it would in the middle of a network, with one weight scale a channel;
onnxruntime and OpenVINO fuse its quantize and dequantize nodes into integer convolutions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from shapes import BODY, Shape

Part = Shape | str  # a layer, or "pool"


def body_parts() -> list[Part]:
    """The six convolutions and two pools of `shapes.body`."""
    parts: list[Part] = []
    for index, (c_in, c_out, side) in enumerate(BODY):
        if index and BODY[index - 1][2] > side:
            parts.append("pool")
        parts.append(Shape("conv", c_in, c_out, side))
    return parts


class Writer:
    """Nodes and constants of an ONNX graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        """A constant; its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def onnx_bytes(parts: list[Part], batch: int, int8: bool) -> tuple[bytes, np.ndarray]:
    """The network for a fixed batch, and an input for it."""
    rng, out = np.random.default_rng(0), Writer()
    first = next(part for part in parts if isinstance(part, Shape))
    shape = (batch, *first.row)
    now, row = "x", first.row
    if int8:
        scale, zero = out.constant("s", np.float32(0.02)), out.constant("z", np.uint8(0))
        now = out.op("DequantizeLinear", [now, scale, zero], "x.f")
    for index, part in enumerate(parts):
        name = f"n{index}"
        if isinstance(part, str):
            now = out.op("MaxPool", [now], name, kernel_shape=[2, 2], strides=[2, 2])
            row = (row[0], row[1] // 2, row[2] // 2)
        else:
            now = layer(out, part, name, now, rng, int8)
            row = part.row_out
        if int8:
            now = out.op("QuantizeLinear", [now, scale, zero], f"{name}.q")
            if index < len(parts) - 1:
                now = out.op("DequantizeLinear", [now, scale, zero], f"{name}.f")
    kind = TensorProto.UINT8 if int8 else TensorProto.FLOAT
    graph = helper.make_graph(
        out.nodes,
        "ann",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(now, kind, [batch, *row])],
        out.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return model.SerializeToString(), x if int8 else (x / 255).astype(np.float32)


def layer(out: Writer, shape: Shape, name: str, x: str, rng: np.random.Generator, int8: bool) -> str:
    """Convolution or product with ReLU."""
    conv = shape.kind == "conv"
    size = (shape.out, shape.channels, 3, 3) if conv else (shape.channels, shape.out)
    fan = shape.channels * (9 if conv else 1)
    if int8:
        codes = out.constant(f"{name}.w", rng.integers(-127, 128, size).astype(np.int8))
        scales = out.constant(f"{name}.ws", np.full(shape.out, 0.01 / fan**0.5, np.float32))
        zeros = out.constant(f"{name}.wz", np.zeros(shape.out, np.int8))
        w = out.op("DequantizeLinear", [codes, scales, zeros], f"{name}.wf", axis=0 if conv else 1)
    else:
        w = out.constant(f"{name}.w", (rng.standard_normal(size) / fan**0.5).astype(np.float32))
    if conv:
        y = out.op("Conv", [x, w], f"{name}.y", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    else:
        y = out.op("MatMul", [x, w], f"{name}.y")
    return out.op("Relu", [y], name)


def torch_net(parts: list[Part], neuron: Any) -> Any:
    """The same in PyTorch on rows [T*B, ...], `neuron()` behind every layer."""
    from torch import nn

    modules: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            modules.append(nn.MaxPool2d(2))
        elif part.kind == "conv":
            modules += [nn.Conv2d(part.channels, part.out, 3, padding=1, bias=False), neuron()]
        else:
            modules += [nn.Linear(part.channels, part.out, bias=False), neuron()]
    return nn.Sequential(*modules)
