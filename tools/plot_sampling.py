#!/usr/bin/env python3
"""Where LSTS learned to look: its sampling locations beside the motion of the objects (figure 5 of its paper).

    python tools/plot_sampling.py --config-file configs/quick/LSTS.yaml \\
        --weights output/quick/LSTS/model_final.safetensors

The motion leads from the centre of an annotated object of the training set to where it was some frames before, as a
location leads from a cell to where its memory is sampled; in cells of conv4 (16 pixels of the resized frame). It is
measured over the distances that VIDEO.TRAIN_SCHEDULE draws, from a frame to its keyframe and from there to the keyframe
before; in all frames of at most 100 videos, also those that the dataset does not list for training. The initial
locations are drawn anew as a training with this configuration begins: exactly those where SEED is not negative, else
others of the same distribution. Printed: mean, standard deviation, and 5th and 95th percentile of each, horizontally
and vertically.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from vod2.atomic import replacing
from vod2.checkpoint import existing_weights, read_tensors
from vod2.d2 import BoxMode, CfgNode, DatasetCatalog, MetadataCatalog, build_model, seed_all_rng
from vod2.data.datasets import load_imagenet_vid
from vod2.engine import cli, load_config
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.structures import Role
from vod2.temporal import build_training_schedule

STRIDE = 16
MAX_VIDEOS = 100
MAX_PAIRS = 200_000
MOTION = "motion"


def learned_locations(path: str) -> dict[str, np.ndarray]:
    """{name of the aligner: (N, 2) dx, dy in cells} in a checkpoint."""
    locations = _locations(read_tensors(str(existing_weights(path))))
    if not locations:
        raise UserError(
            f"{path} has no sampling locations: expected a checkpoint of LSTS with MODEL.ALIGNER.NAME LearnedSampling"
        )
    return locations


def initial_locations(cfg: CfgNode) -> dict[str, np.ndarray]:
    """The same as a training with `cfg` begins."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # A negative SEED asks for another seed each time; the picture needs one of them.
    seed_all_rng(max(cfg.SEED, 0))
    return _locations(build_model(cfg).state_dict())


def _locations(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Each set once: two aligners may look at the same."""
    locations: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if name.endswith(".locations") and not any(np.array_equal(value, other) for other in locations.values()):
            locations[name] = value.double().numpy()
    return locations


def drawn_distances(cfg: CfgNode, rng: np.random.Generator) -> list[list[int]]:
    """Frames from a frame to its keyframe (but 0), and from that to the keyframe before, of 1,000 training clips."""
    schedule = build_training_schedule(cfg)
    t = 10 * cfg.VIDEO.TRAIN_SCHEDULE.INTERVAL  # far from both ends
    to_keyframe, to_memory = set(), set()
    for _ in range(1000):
        frames = {role: index for index, role in schedule.sample(t, 2 * t, rng)}
        new = frames.get(Role.KEYFRAME, t)
        to_keyframe.add(abs(t - new))
        if Role.MEMORY in frames:
            to_memory.add(new - frames[Role.MEMORY])
    return [sorted(to_keyframe - {0}), sorted(to_memory)]


def object_motion(frames: Sequence[dict], steps: Sequence[int], cfg: CfgNode, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) dx, dy in cells: from centres of objects back to where they were `steps` frames ago.

    At most MAX_PAIRS, in random order.

    Raises:
        UserError: if no object with a track is in two frames.
    """
    centres: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for frame in frames:
        scale = _resize_factor(frame["height"], frame["width"], cfg)
        for annotation in frame.get("annotations", ()):
            if annotation.get("track_id", -1) < 0:  # which object of the other frames it is, is unknown
                continue
            x1, y1, x2, y2 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            track = centres.setdefault((frame["video_id"], annotation["track_id"]), {})
            # In cells of the resized frame, the unit of the sampling locations.
            track[frame["frame_index"]] = np.array([x1 + x2, y1 + y2]) / 2 * scale / STRIDE
    motions = []
    for track in centres.values():
        for t in track:
            motions += [track[t] - track[t + step] for step in steps if t + step in track]
    if not motions:
        raise UserError(
            f"DATASETS.TRAIN {cfg.DATASETS.TRAIN[0]!r} has no object in two frames that lie {steps[0]} to {steps[-1]} "
            "apart: expected tracks (track_id)"
        )
    # A random part, as the first ones would be of a few videos.
    return rng.permutation(np.array(motions))[:MAX_PAIRS]


def sampled_frames(dataset: str, rng: np.random.Generator) -> list[dict]:
    """All frames of at most MAX_VIDEOS videos of `dataset`; of a format without lists, those that it has."""
    listed = DatasetCatalog.get(dataset)
    lengths = {frame["video_id"]: frame["video_length"] for frame in listed}
    videos = sorted(lengths)
    if len(videos) > MAX_VIDEOS:
        videos = sorted(rng.choice(videos, MAX_VIDEOS, replace=False).tolist())
    source = getattr(MetadataCatalog.get(dataset), "check_source", {})
    if source.get("format") != "imagenet_vid":
        chosen = set(videos)
        return [frame for frame in listed if frame["video_id"] in chosen]
    with tempfile.TemporaryDirectory() as folder:
        # The dataset's own list has 15 frames of a training video; the motion is that of neighbouring ones.
        frame_list = Path(folder, "plot_sampling.txt")
        lines = []
        for video in videos:
            lines += [f"{video} 1 {t} {lengths[video]}\n" for t in range(lengths[video])]
        frame_list.write_text("".join(lines))
        return load_imagenet_vid(source["path"], source["split"], source["class_names"], frame_list, name=dataset)


def _resize_factor(height: int, width: int, cfg: CfgNode) -> float:
    return min(cfg.INPUT.MIN_SIZE_TEST / min(height, width), cfg.INPUT.MAX_SIZE_TEST / max(height, width))


def sampling_figure(samples: dict[str, np.ndarray]) -> Figure:
    """Histograms of each (n, 2), horizontally and vertically, and the places themselves; the motion behind the rest."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    # A few very fast objects would squeeze everything else; locations are few and all shown.
    reach = max(np.percentile(np.abs(value), 99 if name.startswith(MOTION) else 100) for name, value in samples.items())
    bins = np.linspace(-reach, reach, 22)  # few, for 40 locations
    for axis, (panel, title) in enumerate(zip(panels, ("horizontal", "vertical"), strict=False)):
        for name, value in samples.items():
            label = f"{name}: std {value[:, axis].std():.2f}"
            panel.hist(value[:, axis], bins, density=True, histtype="step", linewidth=1.6, label=label)
        panel.margins(y=0.4)  # for the legend
        panel.set(title=f"{title} offset", xlabel="cells of conv4", ylabel="density")
        panel.legend(fontsize="small")
    for name, value in samples.items():
        is_motion = name.startswith(MOTION)
        size, alpha = (4, 0.2) if is_motion else (18, 0.9)
        # Of the motion 2,000 points are as many as can be told apart.
        panels[2].scatter(*value[:2000].T, s=size, alpha=alpha, label=name)
    panels[2].set(title="locations", xlabel="dx", ylabel="dy", xlim=(-reach, reach), ylim=(reach, -reach))
    return figure


def spreads(samples: dict[str, np.ndarray]) -> str:
    """A table of mean, standard deviation and percentiles of each (n, 2)."""
    rows = []
    for name, value in samples.items():
        low, high = np.percentile(value, (5, 95), axis=0)
        columns = zip(value.mean(axis=0), value.std(axis=0), low, high, strict=True)
        rows += [[name if axis == "x" else "", axis, *column] for axis, column in zip("xy", columns, strict=True)]
    return tabulate(rows, headers=["cells", "", "mean", "std", "5%", "95%"], floatfmt=".2f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, help="that the weights were trained with")
    parser.add_argument("--weights", required=True, help="checkpoint of LSTS")
    parser.add_argument("--output", type=Path, default=Path("sampling.png"), help="the picture")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args()
    refuse_inputs("--output", [args.output], [args.config_file, args.weights])
    cfg = load_config(args.config_file, args.opts)
    rng = np.random.default_rng(0)
    frames = sampled_frames(cfg.DATASETS.TRAIN[0], rng)
    samples = {}
    for steps in drawn_distances(cfg, rng):
        if steps:
            name = f"{MOTION}, {steps[0]} to {steps[-1]} frames"
            samples[name] = object_motion(frames, steps, cfg, rng)
    for label, locations in (("initial", initial_locations(cfg)), ("learned", learned_locations(args.weights))):
        samples |= {label if len(locations) == 1 else f"{label} {name}": value for name, value in locations.items()}
    print(spreads(samples))
    with replacing(args.output) as path:
        sampling_figure(samples).savefig(path, dpi=70, format="png")
    print(args.output)


if __name__ == "__main__":
    cli.run(main)
