"""From floating point to one bit a weight: train, fine-tune under three plans, compare bytes and accuracy.

    python examples/04_compress_to_one_bit.py --epochs 12

The first and the last layer keep 8 bits, as is usual; `first_last_bits: null` in a plan takes them along.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

import picojoule
from picojoule import compress, data, deploy

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=12)
options = parser.parse_args()
digits = data.load("digits")


def train_(model: nn.Module, epochs: int, lr: float) -> nn.Module:
    """Train in place; the loop is the same with and without quantizers."""
    torch.manual_seed(0)
    keep = compress.quantizer_parameters(model)  # learned steps: no weight decay
    known = {id(p) for p in keep}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.AdamW([{"params": rest}, {"params": keep, "weight_decay": 0.0}], lr=lr)
    batches = data.loader(digits.train, 64, train=True, seed=0)
    total = max(1, epochs * len(batches))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total)
    step = 0
    for _ in range(epochs):
        for x, y in batches:
            compress.progress_(model, step, step / total)  # schedules of quantizers that have one
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    return model.eval()


torch.manual_seed(0)
floating = train_(picojoule.create_model("spiking_vgg_digits", T=2), options.epochs, 0.005)
x, y = next(iter(data.loader(digits.trainval, 500, train=False)))
images = (digits.test.x / digits.test.max_value).astype("float32")

print("weights    trained on   packed     file     test accuracy")
with tempfile.TemporaryDirectory() as folder:
    for name in ("float", "w4", "ternary", "w1"):
        model = copy.deepcopy(floating)
        if name != "float":
            compress.compress_(model.train(), compress.preset(name))
            train_(model, max(1, options.epochs // 2), 0.003)
        file = Path(folder) / f"{name}.pj"
        picojoule.pack(model, x, y, path=file, grid=10)
        net = deploy.load(file)
        right = 100 * (net.predict(images) == digits.test.y).mean()
        trained_on = "8 after" if name == "float" else name  # float weights get 8 bits at packing
        size = f"{net.info()['payload_bytes']:>7,} B {file.stat().st_size:>7,} B"
        print(f"{name:8s}   {trained_on:8s}  {size}   {right:6.2f} %")

print(compress.report(model))  # the 1-bit model, layer by layer
