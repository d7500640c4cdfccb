"""Train a small spiking network on handwritten digits, pack it, and run the file without torch's help.

    python examples/01_train_and_pack.py --epochs 12

A spiking network here is an ordinary nn.Module, so the loop is an ordinary PyTorch loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import picojoule
from picojoule import data, deploy

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--out", type=Path, default=Path("digits.pj"))
options = parser.parse_args()
torch.manual_seed(0)

# -- data and model ------------------------------------------------------------------------------------

digits = data.load("digits")  # 8 x 8 pixels, inside scikit-learn; train, val and test are fixed
model = picojoule.create_model("spiking_vgg_digits", T=2)  # LIF neurons, two steps

# -- train ---------------------------------------------------------------------------------------------

optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
batches = data.loader(digits.train, 64, train=True, seed=0)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, max(1, options.epochs * len(batches)))
for epoch in range(options.epochs):
    for x, y in batches:  # each loop over the loader is another epoch
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1:2d}  last loss {loss.item():.3f}")
model.eval()

# -- pack ----------------------------------------------------------------------------------------------

# Samples choose the grid: how many fraction bits membranes need. Never the test split.
x, y = next(iter(data.loader(digits.trainval, 1400, train=False)))
packed = picojoule.pack(model, x, y, path=options.out, grid=8)
print(f"same answer as the trained model on {100 * packed.figures['agreement']:.2f} % of {len(y)} samples")

# -- run -----------------------------------------------------------------------------------------------

net = deploy.load(options.out)  # this line and the next need neither torch nor the model's code
images = (digits.test.x / digits.test.max_value).astype("float32")
accuracy = 100 * (net.predict(images) == digits.test.y).mean()
print(f"{options.out}: {net.info()['payload_bytes']:,} bytes, {accuracy:.2f} % of {len(images)} test digits")
