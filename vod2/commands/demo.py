"""A single-frame detector against RDN on synthetic videos that are new to both, with weights that come with vod2.

    vod2 demo --output output/demo
    vod2 demo --train --output output/demo_training

Ends with a page of metrics and one of a video, which the single frame is lost in and RDN is not. With --train, both
detectors are trained first, on a synthetic set that is easier, for the same number of iterations: RDN starts from the
single frame's weights half-way. What exists already is reused; an interrupted run goes on where it stopped.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from vod2 import package_files
from vod2.atomic import write_json
from vod2.commands.parsing import command_parser
from vod2.commands.steps import call_step, evaluate_step, run_step, train_step
from vod2.engine.zoo import trained_weights

CONFIGS = package_files.CONFIGS / "quick"
DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
DATASET = DATASETS / "synthetic"
SET_OPTIONS = "--seed 0 --train-videos 240 --val-videos 16 --frames 40 --size 128x192 --classes 6".split()
VIDEO = "val/ILSVRC2015_val_00000000"
ROWS = {"AP50": "AP50", "AP50-clean": "clean", "AP50-motion_blur": "motion blur"}

SHOWN_VIDEO = "val/ILSVRC2015_val_00000003"
"""The last of the four."""
TRAINED_ROWS = {"AP50": "AP50", "AP50-clean": "clean frames", "AP50-deteriorated": "hard frames", "flicker": "flicker"}
"""{metric: its heading} of the detectors that come with vod2; "hard frames" are those in which something is hidden,
blurred, dark or the like."""


def table(metrics: dict[str, dict[str, float]], rows: dict[str, str]) -> str:
    """What the demo prints of {detector: {metric: percent}}.

    Args:
        rows: {metric: its heading}, groups of frames among them.
    """
    lines = [[name, *(values[row] for row in rows)] for name, values in metrics.items()]
    return tabulate(lines, headers=["held-out videos", *rows.values()], floatfmt=".1f")


def show_trained(output: Path) -> None:
    """Evaluate the detectors that come with vod2 on a few videos, and show them side by side."""
    root, dataset = DATASETS / "vod_synth_1_demo", "vod_synth_1_demo_val"
    single, rdn = trained_weights("vod_synth/FasterRCNN"), trained_weights("vod_synth/RDN")
    call_step("Synthetic videos", "synthetic", "--benchmark", "vod-synth-1", "--size", "demo", "--output", root)
    metrics, runs = {}, []
    for title, config, weights in (("single frame", "FasterRCNN", single), ("RDN", "RDN", rdn)):
        folder = output / title.replace(" ", "_").lower()
        keys = ["MODEL.WEIGHTS", weights, "DATASETS.TEST", str((dataset,))]
        found = evaluate_step(f"{title}: evaluate", folder, dataset, f"vod_synth/{config}.yaml", keys)
        metrics[title] = {row: found[row] for row in TRAINED_ROWS}
        runs.append(f"{title}={folder}")
    report, page, drawn = output / "report.html", output / "video.html", output / "video.mp4"
    call_step("Report", "report", *runs, "--output", report)
    call_step(
        "The last of the videos, single frame on the left",
        "detect",
        *("--config-file", "vod_synth/RDN.yaml", "--video-input", root / "Data" / "VID" / SHOWN_VIDEO),
        *("--compare", "vod_synth/FasterRCNN.yaml", single),
        *("--output", drawn, "--report", page, "--opts", "MODEL.WEIGHTS", rdn),
    )
    write_json(output / "metrics.json", metrics)
    print("\n" + table(metrics, TRAINED_ROWS))
    print(f"\n{report}  {page}  {drawn}  {output / 'metrics.json'}")


def train_both(output: Path) -> None:
    """Train a single-frame detector and RDN for as many iterations, evaluate both, and draw a video."""
    single, rdn, clip = output / "single_frame", output / "rdn", output / "clip.mp4"

    def train(step: str, config: str, folder: Path, *opts: str | Path) -> dict[str, float]:
        metrics = train_step(step, folder, "synthetic_val", CONFIGS / config, [*map(str, opts)])
        return {row: metrics[row] for row in ROWS}

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
    print("\n" + table(metrics, ROWS))
    print(f"\n{output / 'demo.mp4'}  {output / 'detections.json'}  {output / 'metrics.json'}")


def main(words: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--train", action="store_true", help="train both detectors first, about twelve minutes")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder of everything it makes")
    args = parser.parse_args(words)
    if args.train:
        train_both(args.output)
    else:
        show_trained(args.output)
