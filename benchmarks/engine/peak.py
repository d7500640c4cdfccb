"""Peak memory and start of one runtime in a fresh process: `python peak.py RUNTIME FILE INPUT.npy`.

Prints JSON: MiB at the peak (VmHWM of /proc), seconds from the first import to the first answer.
RUNTIME: picojoule, onnxruntime, openvino, torch (FILE is a run folder).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"


def main() -> None:
    """Load, answer three times, report."""
    runtime, file, data = sys.argv[1:4]
    began = time.perf_counter()
    import numpy as np

    x = np.load(data)
    if runtime == "picojoule":
        from picojoule import deploy

        call = deploy.load(file)
        call(x)
        first = time.perf_counter() - began
        call(x)
    elif runtime == "torch":
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import torch

        from picojoule.cli.road import open_run

        model = open_run(Path(file)).model
        with torch.inference_mode():
            model(torch.from_numpy(x))
        first = time.perf_counter() - began
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import peers

        make = peers.onnxruntime_call if runtime == "onnxruntime" else peers.openvino_call
        run = make(Path(file).read_bytes(), x, 1)
        run()
        first = time.perf_counter() - began
        run()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"peak_mib": round(peak / 1024, 1), "first_answer_s": round(first, 3)}))


if __name__ == "__main__":
    main()
