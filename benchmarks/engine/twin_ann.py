"""The ANN twins as ONNX files: float32, and int8 by onnxruntime's own static quantization.

Quantized with QDQ nodes, one weight scale a channel, activations of 8 bits calibrated (min-max) on training
images. OpenVINO's own tool (nncf) needs packages that replace PyTorch's build; OpenVINO executes the same QDQ
file in int8, which is its documented input form.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from twin_train import ann_model

from picojoule.learn import load_checkpoint, load_weights, make_recipe
from picojoule.learn.feed import Feed
from picojoule.learn.setup import prepare

CALIBRATION = 256


def load_twin(folder: Path) -> tuple[nn.Module, Feed]:
    """The trained twin of a run folder and its data."""
    recipe = make_recipe(yaml.safe_load((folder / "config.yaml").read_text()))
    task = prepare(recipe)
    model = ann_model(recipe, len(task.data.classes), task.data.train.x.shape[1])
    load_weights(model, load_checkpoint(folder / "weights.safetensors")["model"], str(folder))
    model.entry = model.readout = nn.Identity()  # one step: nothing to repeat, nothing to average
    return model.eval(), Feed(task.data, recipe)


def tensors(feed: Feed, split: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Normalised inputs and labels of a split."""
    xs, ys, seen = [], [], 0
    for x, y in feed.evaluation(split):
        xs.append(x.numpy())
        ys.append(y.numpy())
        seen += len(x)
        if limit is not None and seen >= limit:
            break
    return np.concatenate(xs)[:limit], np.concatenate(ys)[:limit]


def export(folder: Path, batch: int) -> dict[str, Path]:
    """{"fp32", "int8"}: ONNX files of the twin for a fixed batch, made when they are not there."""
    paths = {form: folder / f"ann_{form}_b{batch}.onnx" for form in ("fp32", "int8")}
    if all(path.is_file() for path in paths.values()):
        return paths
    model, feed = load_twin(folder)
    x = tensors(feed, "train", max(CALIBRATION, batch))[0]
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.from_numpy(x[:batch]),), held, dynamo=False, input_names=["x"],
            output_names=["y"], opset_version=17,
        )  # fmt: skip
    paths["fp32"].write_bytes(held.getvalue())
    quantize(paths["fp32"], paths["int8"], x, batch)
    return paths


def quantize(source: Path, target: Path, x: np.ndarray, batch: int) -> None:
    """onnxruntime's shape inference, calibration and QDQ quantization."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            parts = [x[i : i + batch] for i in range(0, len(x) - batch + 1, batch)]
            self.parts = iter([{"x": part} for part in parts])

        def get_next(self) -> Any:
            return next(self.parts, None)

    logging.getLogger().setLevel(logging.ERROR)
    prepared = target.with_suffix(".tmp.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    prepared.unlink()
