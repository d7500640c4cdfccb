"""A packed network that reads digits row by row, and answers better with each row.

    python examples/02_stream.py --epochs 15

Time is a sequence here: step t is row t of the image. The packed file keeps the state of its neurons between
calls, so a sensor could deliver one row at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import picojoule
from picojoule import data, deploy, timeline
from picojoule.graph import Grid
from picojoule.neurons import LIF

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=15)
options = parser.parse_args()
torch.manual_seed(0)
T = 8  # rows of an image


class RowReader(nn.Module):
    """[B, T, 8] rows -> [B, T, 10] evidence after each row."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = timeline.Entry(T, "frames")  # [B, T, 8] -> [T*B, 8]
        self.first, self.norm1, self.lif1 = nn.Linear(8, 128), nn.BatchNorm1d(128), LIF(T, tau=2.0)
        self.second, self.norm2, self.lif2 = nn.Linear(128, 128), nn.BatchNorm1d(128), LIF(T, tau=4.0)
        self.head = nn.Linear(128, 10)
        self.readout = timeline.Readout(T, "steps")  # [T*B, 10] -> [B, T, 10]

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif1(self.norm1(self.first(self.entry(x))))
        spikes = self.lif2(self.norm2(self.second(spikes)))
        return self.readout(self.head(spikes))


digits = data.load("digits")
model = RowReader()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(options.epochs):
    for x, y in data.loader(digits.train, 64, train=True, seed=0):
        evidence = model(x[:, 0]).mean(1)  # over the steps
        loss = nn.functional.cross_entropy(evidence, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()

rows = (digits.test.x[:, 0] / digits.test.max_value).astype("float32")  # [N, 8, 8]
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "rows.pj"
    # stream=True proves bounds of the membranes for any number of steps, not only for T.
    picojoule.pack(model, torch.from_numpy(rows[:200]), path=file, grid=Grid(12, stream=True))
    net = deploy.load(file)

whole = net(rows)  # all rows at once
stream = net.stream()
evidence, pieces = np.zeros((len(rows), 10)), []
for t in range(T):
    step = stream(rows[:, t : t + 1])  # [N, 1, 10]; the state stays inside
    pieces.append(step)
    evidence += step[:, 0]
    right = 100 * (evidence.argmax(1) == digits.test.y).mean()
    print(f"after row {t + 1}: {right:5.1f} % of the digits are right already")

assert np.array_equal(np.concatenate(pieces, axis=1), whole), (
    "row by row and at once are the same, bit for bit"
)
print("row by row equals all at once, bit for bit")
