"""The other runtimes, threads pinned in each: onnxruntime, OpenVINO, PyTorch, SpikingJelly."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Call = Callable[[], Any]
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "spikingjelly")


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Engines made in here wait actively, as they do where torch is absent, which is how they are deployed.

    Beside torch their threads go to sleep at once, because torch's own would fight with them for the cores;
    here the others have gone to sleep before each sample.
    """
    held = sys.modules.pop("torch", None)
    try:
        yield
    finally:
        if held is not None:
            sys.modules["torch"] = held


def onnxruntime_call(model: bytes, x: np.ndarray, threads: int) -> Call:
    """A session of onnxruntime on the CPU, all graph optimisations on, input fixed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def openvino_call(model: bytes, x: np.ndarray, threads: int) -> Call:
    """A compiled model of OpenVINO on the CPU in latency mode, inputs and outputs shared, not copied.

    Floats stay float32: on processors with bfloat16 OpenVINO would round them otherwise.
    """
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    network = core.read_model(model)
    network.reshape(list(x.shape))
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    feed = {0: x}

    def run() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)[0]

    return run


def torch_call(model: Any, x: Any, threads: int) -> Call:
    """A module in inference mode on `threads` threads (set at every call: others set it too)."""
    import torch

    model.eval()

    def run() -> Any:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(x)

    return run


def compiled_call(model: Any, x: Any, threads: int) -> Call:
    """The same through torch.compile, compiled here."""
    import torch

    torch.set_num_threads(threads)
    torch._dynamo.reset()
    run = torch_call(torch.compile(model.eval()), x, threads)
    run()
    return run


def spikingjelly_neuron(T: int) -> Any:
    """SpikingJelly's multi-step LIF (tau 2, hard reset, ATan) on rows [T*B, ...], at rest at every call."""
    import torch
    from spikingjelly.activation_based import neuron, surrogate

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.node = neuron.LIFNode(
                tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
            )

        def forward(self, x: Any) -> Any:
            self.node.reset()
            return self.node(x.unflatten(0, (T, -1))).flatten(0, 1)

    return Rows()


def plain_neuron(T: int) -> Any:
    """The same LIF as six lines of PyTorch: what one would write by hand."""
    import torch

    class Loop(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            rows = x.unflatten(0, (T, -1)).unbind(0)
            v, spikes = torch.zeros_like(rows[0]), []
            for row in rows:
                v = v + (row - v) / 2
                spikes.append((v >= 1.0).to(row.dtype))
                v = v * (1 - spikes[-1])
            return torch.cat(spikes)

    return Loop()
