"""The main job in one command: make a synthetic set, train a single-frame detector and RDN on it, compare them.

    vod2 demo --output output/demo

Both are trained for the same number of iterations: RDN starts from the single frame's weights half-way. What exists
already is reused; an interrupted run goes on where it stopped.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from vod2 import package_files
from vod2.atomic import write_json
from vod2.commands.parsing import command_parser
from vod2.commands.steps import run_step, train_step

CONFIGS = package_files.CONFIGS / "quick"
DATASET = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "synthetic"
SET_OPTIONS = "--seed 0 --train-videos 240 --val-videos 16 --frames 40 --size 128x192 --classes 6".split()
VIDEO = "val/ILSVRC2015_val_00000000"
ROWS = ("AP50", "AP50-clean", "AP50-motion_blur")


def train(step: str, config: str, output: Path, *opts: str | Path) -> dict:
    """Train, or go on training, one detector and return its metrics on the held-out videos."""
    metrics = train_step(step, output, "synthetic_val", CONFIGS / config, [*map(str, opts)])
    return {row: metrics[row] for row in ROWS}


def table(metrics: dict[str, dict[str, float]]) -> str:
    """What the demo prints of {detector: {metric: percent}}; "clean" and "motion blur" are groups of frames."""
    lines = []
    for name, values in metrics.items():
        lines.append([name, *(values[row] for row in ROWS)])
    return tabulate(lines, headers=["held-out videos", "AP50", "clean", "motion blur"], floatfmt=".1f")


def main(words: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder of everything it makes")
    output = parser.parse_args(words).output
    single, rdn, clip = output / "single_frame", output / "rdn", output / "clip.mp4"

    run_step("Synthetic videos", "synthetic", "--output", DATASET, *SET_OPTIONS, "--mp4", VIDEO, clip)
    # Weights from half-way through the single frame's training, so that both are trained for as long.
    metrics = {
        "single_frame": train("Single frame: train and evaluate", "FasterRCNN.yaml", single),
        "rdn": train("RDN: train and evaluate", "RDN.yaml", rdn, "MODEL.WEIGHTS", single / "model_0000799.safetensors"),
    }
    run_step(
        "RDN on a held-out video",
        "detect",
        *("--config-file", CONFIGS / "RDN.yaml", "--video-input", clip),
        *("--output", output / "demo.mp4", "--json", output / "detections.json"),
        *("--opts", "MODEL.WEIGHTS", rdn / "model_final.safetensors"),
    )
    write_json(output / "metrics.json", metrics)
    print("\n" + table(metrics))
    print(f"\n{output / 'demo.mp4'}  {output / 'detections.json'}  {output / 'metrics.json'}")
