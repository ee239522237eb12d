#!/usr/bin/env python3
"""Where LSTS learned to look: its sampling locations beside the motion of the objects (figure 5 of its paper).

    python tools/plot_sampling.py --config-file configs/quick/LSTS.yaml --weights output/quick/LSTS/model_final.pth

The motion leads from the centre of an annotated object of the training set to where it was 1 to INTERVAL - 1 frames
before, as a location leads from a cell to where its memory is sampled; in cells of conv4 (16 pixels of the resized
frame). Printed: mean and standard deviation of each, horizontally and vertically.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from vod2.atomic import replacing
from vod2.checkpoint import read_tensors
from vod2.d2 import BoxMode, CfgNode, DatasetCatalog
from vod2.engine import cli, load_config
from vod2.errors import UserError

STRIDE = 16
MAX_PAIRS = 200_000


def learned_locations(path: str) -> dict[str, np.ndarray]:
    """{name of the aligner: (N, 2) dx, dy in cells} in a checkpoint."""
    state = read_tensors(path)
    found = {name: value.double().numpy() for name, value in state.items() if name.endswith(".locations")}
    if not found:
        raise UserError(
            f"{path} has no sampling locations: expected a checkpoint of LSTS with MODEL.ALIGNER.NAME LearnedSampling"
        )
    return found


def object_motion(dataset: str, cfg: CfgNode, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) dx, dy in cells: from centres of the objects of `dataset` back to earlier ones, at most MAX_PAIRS.

    Raises:
        UserError: if no object with a track is in two frames.
    """
    centres: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for frame in DatasetCatalog.get(dataset):
        scale = _resize_factor(frame["height"], frame["width"], cfg)
        for one in frame.get("annotations", ()):
            if one.get("track_id", -1) < 0:  # which object of the other frames it is, is unknown
                continue
            x1, y1, x2, y2 = BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS)
            track = centres.setdefault((frame["video_id"], one["track_id"]), {})
            track[frame["frame_index"]] = np.array([x1 + x2, y1 + y2]) / 2 * scale / STRIDE
    moved = [
        track[t] - track[t + step]
        for track in centres.values()
        for t in track
        for step in range(1, cfg.VIDEO.TEST_SCHEDULE.INTERVAL)
        if t + step in track
    ]
    if not moved:
        raise UserError(f"dataset {dataset!r} has no object in two frames of a video: expected tracks (track_id)")
    motion = np.array(moved)
    return motion if len(motion) <= MAX_PAIRS else motion[rng.permutation(len(motion))[:MAX_PAIRS]]


def _resize_factor(height: int, width: int, cfg: CfgNode) -> float:
    return min(cfg.INPUT.MIN_SIZE_TEST / min(height, width), cfg.INPUT.MAX_SIZE_TEST / max(height, width))


def sampling_figure(samples: dict[str, np.ndarray]) -> Figure:
    """Histograms of each (n, 2), horizontally and vertically, and the places themselves."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    reach = max(np.abs(value).max() for name, value in samples.items() if name != "motion of objects")
    reach = max(reach, np.percentile(np.abs(samples["motion of objects"]), 99))
    bins = np.linspace(-reach, reach, 33)
    for axis, (panel, title) in enumerate(zip(panels, ("horizontal", "vertical"), strict=False)):
        for name, value in samples.items():
            panel.hist(value[:, axis], bins, density=True, histtype="step", linewidth=1.6, label=name)
        panel.set(title=f"{title} offset", xlabel="cells of conv4", ylabel="density")
        panel.legend(fontsize="small")
    for name, value in samples.items():
        shown = value[:2000]
        is_motion = name == "motion of objects"
        panels[2].scatter(*shown.T, s=4 if is_motion else 18, alpha=0.2 if is_motion else 0.9, label=name)
    panels[2].set(title="locations", xlabel="dx", ylabel="dy", xlim=(-reach, reach), ylim=(reach, -reach))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="that the weights were trained with")
    parser.add_argument("--weights", required=True, help="checkpoint of LSTS")
    parser.add_argument("--initial", help="checkpoint of the same training before it, to compare with")
    parser.add_argument("--output", type=Path, default=Path("sampling.png"), help="the picture")
    args = parser.parse_args()
    cfg = load_config(args.config_file)
    samples = {"motion of objects": object_motion(cfg.DATASETS.TRAIN[0], cfg, np.random.default_rng(0))}
    for label, path in (("initial", args.initial), ("learned", args.weights)):
        if path:
            found = learned_locations(path)
            samples |= {label if len(found) == 1 else f"{label} {name}": value for name, value in found.items()}
    rows = [[name, *value.mean(axis=0), *value.std(axis=0)] for name, value in samples.items()]
    print(tabulate(rows, headers=["cells", "mean x", "mean y", "std x", "std y"], floatfmt=".2f"))
    with replacing(args.output) as path:
        sampling_figure(samples).savefig(path, dpi=120, format="png")
    print(args.output)


if __name__ == "__main__":
    cli.run(main)
