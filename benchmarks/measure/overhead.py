"""Cost of measuring: `counts.count` on a captured 5 M-parameter spiking VGG against its plain forward pass.

    python benchmarks/measure/overhead.py [--samples 1000] [--batch 25] [--threads 1] [--out overhead.json]

Both take turns batch by batch on the same CIFAR-sized images; capturing is not part of the time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from picojoule import graph, models
from picojoule.measure.counts import Counter

LAYOUT = "64-128-P-256-256-P-512-512-P-256"


def main() -> None:
    """Run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = models.create_model("spiking_vgg11", layout=LAYOUT, in_channels=3, T=4).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, 1.0)
    images = torch.rand(options.samples, 3, 32, 32)
    captured = graph.capture(model, images[:2])
    plain, measured = 0.0, 0.0
    counter = Counter(captured)
    with torch.no_grad():
        model(images[:2])
        Counter(captured).feed(images[:2])
        for i in range(0, options.samples, options.batch):
            batch = images[i : i + options.batch]
            started = time.perf_counter()
            model(batch)
            middle = time.perf_counter()
            counter.feed(batch)
            plain += middle - started
            measured += time.perf_counter() - middle
    counts = counter.result()
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": options.samples,
        "batch": options.batch,
        "threads": options.threads,
        "forward_s": plain,
        "measuring_s": measured,
        "ratio": measured / plain,
        "mean_rate": sum(n["rate"] for n in counts.neurons) / len(counts.neurons),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
