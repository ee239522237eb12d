"""Does it learn on this device? The two trainings of `make demo-train`, with their AP50 beside that of the CPU."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from gpu_steps.step import Failed, Step

CPU_AP50 = {"FasterRCNN": 93.0, "RDN": 100.0}
"""Of the same recipe on a CPU, one run (docs/model_zoo.md, `make demo-train`)."""

TOLERANCE = 4.0
"""Points of AP50 by which a run may lie below: seeds of this set differ by about two."""

DATASET = "--seed 0 --train-videos 240 --val-videos 16 --frames 40 --size 128x192 --classes 6".split()
SMALL_DATASET = "--seed 0 --train-videos 3 --val-videos 1 --frames 4 --size 64x96 --classes 2".split()
SMALL_KEYS = "SOLVER.MAX_ITER 4 SOLVER.CHECKPOINT_PERIOD 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0".split()


def run(step: Step) -> None:
    datasets = Path(os.environ["DETECTRON2_DATASETS"])
    words = SMALL_DATASET if step.small else DATASET
    step.case("videos", partial(_tool, step, "make_synthetic.py", "--output", str(datasets / "synthetic"), *words))
    # RDN begins from the single frame half-way, as in `vod2 demo --train`, so that both train for as long.
    half = step.folder / "FasterRCNN" / f"model_{'0000001' if step.small else '0000799'}.safetensors"
    step.case("FasterRCNN", partial(_train, step, "FasterRCNN"), needs=20 if step.small else 60)
    step.case("RDN", partial(_train, step, "RDN", "MODEL.WEIGHTS", str(half)), needs=20 if step.small else 60)


def _tool(step: Step, name: str, *words: str) -> None:
    """Run a tool of the project; what it prints goes to the log of this step."""
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}
    process = subprocess.run([sys.executable, str(step.root / "tools" / name), *words], env=environment)
    if process.returncode:
        raise Failed(f"{name} ended with exit code {process.returncode}, see the log")


def _train(step: Step, name: str, *keys: str) -> dict:
    output = step.folder / name
    workers = str(min(8, os.cpu_count() or 1))
    keys = [*keys, "OUTPUT_DIR", str(output), "MODEL.DEVICE", step.device, "DATALOADER.NUM_WORKERS", workers]
    keys += SMALL_KEYS if step.small else []
    config = step.root / "configs" / "quick" / f"{name}.yaml"
    _tool(step, "train_net.py", "--config-file", str(config), "--resume", *keys)
    results = json.loads((output / "inference" / "synthetic_val" / "results.json").read_text())["vid"]
    values = {"AP50": results["AP50"], "AP50 of the CPU": None if step.small else CPU_AP50[name]}
    if step.small:
        return values
    # Not `<`, which NaN would pass.
    if not results["AP50"] >= CPU_AP50[name] - TOLERANCE:
        raise Failed("it learns less than on a CPU", **values)
    return values
