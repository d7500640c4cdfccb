"""Events of a camera that sees a flickering bar move: made here, so that the example needs no data set.

    python examples/05_events.py --epochs 8

An event says that a pixel became brighter (p = 1) or darker (p = 0) at a time. Four classes: the bar moves
right, left, down, up. A single frame cannot tell them apart, only time can.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import picojoule
from picojoule import deploy
from picojoule.data.events import frames

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
options = parser.parse_args()
SIZE, STEPS = 16, 6
EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])  # t in microseconds


def recording(label: int, rng: np.random.Generator) -> np.ndarray:
    """Events of a flickering bar that crosses the picture in 60 ms, among noise."""
    pixels, parts = np.arange(SIZE), []
    for step, at in enumerate(pixels if label % 2 == 0 else pixels[::-1]):
        seen = pixels[rng.random(SIZE) < 0.8]  # the sensor misses some
        part = np.zeros(len(seen), EVENT)
        part["t"] = 60_000 * step // SIZE + rng.integers(0, 3000, len(seen))
        part["p"] = rng.integers(0, 2, len(seen))
        part["x"], part["y"] = (at, seen) if label < 2 else (seen, at)
        parts.append(part)
    noise = np.zeros(60, EVENT)
    noise["t"], noise["p"] = rng.integers(0, 60_000, 60), rng.integers(0, 2, 60)
    noise["x"], noise["y"] = rng.integers(0, SIZE, 60), rng.integers(0, SIZE, 60)
    return np.sort(np.concatenate([*parts, noise]), order="t")


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Event counts [N, T, 2, H, W] float32 and labels [N]."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 4
    x = np.stack([frames(recording(int(label), rng), STEPS, (SIZE, SIZE), by="time") for label in y])
    return x.astype(np.float32), y


(x, y), (test_x, test_y) = samples(400, 0), samples(200, 1)
torch.manual_seed(0)
model = picojoule.create_model(
    "spiking_vgg_events", T=STEPS, num_classes=4, layout="16/2-32/2", mode="frames"
)  # channels / stride; frames: [B, T, 2, H, W]
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
for epoch in range(options.epochs):
    for rows in torch.randperm(len(y)).split(40):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)[rows]), torch.from_numpy(y)[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}  last loss {loss.item():.3f}")

model.eval()
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "bars.pj"
    result = picojoule.pack(model, torch.from_numpy(x), torch.from_numpy(y), path=file, grid=10)
    net = deploy.load(file)
    right = 100 * (net.predict(test_x) == test_y).mean()
    print(f"{net.info()['payload_bytes']:,} bytes, {right:.1f} % of test bars")

# Time matters: the same frames in reverse order are bars that move the other way.
reverse = np.ascontiguousarray(test_x[:, ::-1])
turned = 100 * (net.predict(reverse) == (test_y ^ 1)).mean()
print(f"played backwards, {turned:.1f} % are seen to move the other way")
