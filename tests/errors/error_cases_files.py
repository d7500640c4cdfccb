"""Errors of packed files, loaded and run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from error_cases import (
    FILES,
    GOLDEN,
    RUNNING,
    Net,
    case,
)

import picojoule
from picojoule import deploy
from picojoule.core.native import native
from picojoule.neurons import PSN

# -- packed files --------------------------------------------------------------------------------------


def header_of(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_file(folder: Path, header: dict[str, Any], body: bytes) -> Path:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "net.pj"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def edited(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The golden file with another header."""
    header, body = header_of(GOLDEN.read_bytes())
    edit(header)
    return write_file(folder, header, body)


def edited_graph(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The golden file with another graph."""
    header, body = header_of(GOLDEN.read_bytes())
    begin, end = header["graph"]["data_offsets"]
    text = json.loads(body[begin:end])
    edit(text)
    new = json.dumps(text, separators=(",", ":")).encode()
    grown = len(new) - (end - begin)
    for name, row in header.items():
        if name != "__metadata__" and row["data_offsets"][0] >= end:
            row["data_offsets"] = [at + grown for at in row["data_offsets"]]
    header["graph"].update(shape=[len(new)], data_offsets=[begin, begin + len(new)])
    return write_file(folder, header, body[:begin] + new + body[end:])


def tensors(header: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for name, row in header.items() if name != "__metadata__"]


@case(FILES, "No such file, and no shipped model of that name.", "`pj list packed` names what is shipped.")
def _(folder: Path) -> None:
    with mock.patch("picojoule.deploy.model.shipped", return_value=["fashion_vgg_w1"]):
        deploy.load(folder / "nett.pj")


@case(FILES, "A truncated file: an interrupted copy or download.", "Fetch it again.")
def _(folder: Path) -> None:
    path = folder / "net.pj"
    path.write_bytes(GOLDEN.read_bytes()[:-40])
    deploy.load(path)


@case(FILES, "A file with bytes behind its end.", "Fetch it again.")
def _(folder: Path) -> None:
    path = folder / "net.pj"
    path.write_bytes(GOLDEN.read_bytes() + bytes(40))
    deploy.load(path)


@case(FILES, "A file of another sort, here text.", "Check the path.")
def _(folder: Path) -> None:
    path = folder / "net.pj"
    path.write_text("weights: none\n" * 40)
    deploy.load(path)


@case(FILES, "A safetensors file of another program.", "Pack the model with `picojoule.pack` first.")
def _(folder: Path) -> None:
    deploy.load(edited(folder, lambda h: h.update(__metadata__={"format": "pt"})))


@case(FILES, "A file of a later version.", "Update picojoule, or pack the model again.")
def _(folder: Path) -> None:
    deploy.load(edited(folder, lambda h: h["__metadata__"].update(version="9")))


@case(
    FILES, "Offsets edited by hand, so that two tensors overlap.", "Packed files are not edited: pack again."
)
def _(folder: Path) -> None:
    def overlap(header: dict[str, Any]) -> None:
        second = sorted(tensors(header), key=lambda row: row["data_offsets"])[1]
        second["data_offsets"][0] -= 8

    deploy.load(edited(folder, overlap))


@case(
    FILES,
    "Offsets edited by hand, so that bytes belong to no tensor.",
    "Packed files are not edited: pack again.",
)
def _(folder: Path) -> None:
    def hole(header: dict[str, Any]) -> None:
        for row in tensors(header):
            if row["data_offsets"][0] > 0:
                row["data_offsets"] = [at + 8 for at in row["data_offsets"]]

    deploy.load(edited(folder, hole))


@case(FILES, "A shape far larger than the file.", "The file is damaged or hostile. Nothing was allocated.")
def _(folder: Path) -> None:
    deploy.load(edited(folder, lambda h: h["graph"].update(shape=[2**40])))


@case(
    FILES, "Sizes whose product overflows 64 bits.", "The file is damaged or hostile. Nothing was allocated."
)
def _(folder: Path) -> None:
    deploy.load(edited(folder, lambda h: h["graph"].update(shape=[2**31, 2**31, 2**31])))


@case(FILES, "A node that this version does not know.", "Update picojoule, or pack the model again.")
def _(folder: Path) -> None:
    deploy.load(edited_graph(folder, lambda g: g["nodes"][1].update(type="Convolution")))


@case(FILES, "An unknown field in a node.", "Update picojoule, or pack the model again.")
def _(folder: Path) -> None:
    deploy.load(edited_graph(folder, lambda g: g["nodes"][1].update(strides=[2, 2])))


@case(FILES, "Nodes that read each other in a circle.", "The file is damaged or hostile.")
def _(folder: Path) -> None:
    def circle(text: dict[str, Any]) -> None:
        text["nodes"][1]["inputs"] = [text["nodes"][3]["name"]]

    deploy.load(edited_graph(folder, circle))


@case(FILES, "Rows that would need memory out of proportion to the file.", "The file is damaged or hostile.")
def _(folder: Path) -> None:
    deploy.load(edited_graph(folder, lambda g: g["nodes"][0].update(shape=[2, 60000, 60000])))


# -- running -------------------------------------------------------------------------------------------


@case(RUNNING, "An image without the batch axis.", "Add it.")
def _(folder: Path) -> None:
    deploy.load(GOLDEN)(np.zeros((2, 8, 8), np.uint8))


@case(RUNNING, "An input of another size.", "Scale or crop the images to what the model was trained on.")
def _(folder: Path) -> None:
    deploy.load(GOLDEN)(np.zeros((1, 2, 32, 32), np.uint8))


@case(RUNNING, "Floats for a model that reads bytes.", "Give the pixels as they are stored, 0..255.")
def _(folder: Path) -> None:
    deploy.load(GOLDEN)(np.zeros((1, 2, 8, 8), np.float32))


@case(RUNNING, "NaN in the data.", "Find out where it comes from; the engine computes with numbers only.")
def _(folder: Path) -> None:
    net = picojoule.pack(Net().eval(), torch.rand(20, 8), path=folder / "net.pj", grid=4, progress=False)
    assert net.graph
    deploy.load(folder / "net.pj")(np.full((1, 8), np.nan))


@case(
    RUNNING,
    "A stream of a packed model that looks at later steps.",
    "Train with a causal module, or call it whole.",
)
def _(folder: Path) -> None:
    picojoule.pack(Net(PSN(T=4)).eval(), torch.rand(20, 8), path=folder / "net.pj", grid=4, progress=False)
    deploy.load(folder / "net.pj").stream()


@case(
    RUNNING,
    "`pj run` with a file that is no image and no array.",
    "Convert it to PNG, or save it with `numpy.save`.",
)
def _(folder: Path) -> None:
    from picojoule.cli.run import execute

    (folder / "digit.txt").write_text("7")
    execute(str(GOLDEN), folder / "digit.txt", 1)


@case(
    RUNNING,
    "A native module that was built from other sources than the Python files beside it.",
    "Build it again; after a change of branch in a source tree this is the usual cause.",
)
def _(folder: Path) -> None:
    stale = SimpleNamespace(__file__="picojoule/_native.so", __binding__=0)
    with mock.patch.object(importlib, "import_module", return_value=stale):
        native()
