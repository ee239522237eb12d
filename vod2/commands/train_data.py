"""`vod2 train --data PATH`: from annotated videos to a trained detector and a report, without any code."""

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from vod2 import package_files
from vod2.atomic import replacing
from vod2.commands.steps import run_step, train_step
from vod2.d2 import CfgNode, MetadataCatalog
from vod2.data.datasets.readings import reading_once
from vod2.data.discovery import (
    REGISTER,
    Layout,
    common_classes,
    digest_of,
    find_layout,
    load_parts,
    register_data,
    registration_text,
    video_lengths,
)
from vod2.engine import load_config
from vod2.engine.recipe import Fitted, fit_to_boxes
from vod2.engine.rows import config_name
from vod2.errors import UserError
from vod2.package_files import command_line
from vod2.temporal.training import build_training_schedule
from vod2.video import images_in, quick_to_read

ITERATIONS = 500
VAL_FRAMES = 1000
VAL_SHARE = 0.25
REGISTRATION = "datasets.py"

_DECIDED = {
    "OUTPUT_DIR": "give --output",
    "SOLVER.MAX_ITER": "give --iterations",
    "DATASETS.TRAIN": "leave it out",
    "DATASETS.TEST": "leave it out",
    "TEST.CONTEXT": "leave it out, and evaluate with vod2 eval",
    "MODEL.ROI_HEADS.NUM_CLASSES": "give --class-names",
}
"""{key: what to do instead of giving it}."""

MOST_SHOWN = 3000
"""Frames of the longest video of which a page is made: the page holds all of them."""

_ONLY_WITH_DATA = {
    "format": None,
    "class_names": None,
    "video_root": None,
    "video_suffix": None,
    "first_frame": None,
    "val_share": None,
    "val_frames": VAL_FRAMES,
    "iterations": None,
    "output": None,
    "no_copies": False,
}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --data and the options that go with it."""
    group = parser.add_argument_group("your own videos, without a configuration or code")
    add = group.add_argument
    add("--data", metavar="PATH", help="a folder of annotated videos in one of the layouts of datasets/README.md")
    add("--output", metavar="DIR", help="where everything goes (default: output/<name of the folder>)")
    add("--iterations", type=int, metavar="N", help=f"of all trainings together (default {ITERATIONS})")
    add("--format", choices=list(REGISTER), help="the layout; found out by itself where it can be")
    add("--class-names", metavar="NAME,NAME", help="the classes to keep (default: those of the annotations)")
    add("--video-root", metavar="DIR", help="the frames are in the video files of this folder")
    add("--video-suffix", metavar=".EXT", help="of these files")
    add("--first-frame", type=int, metavar="N", help="what the annotations count frames from (default 0)")
    add("--no-copies", action="store_true", help="read videos as they are, also where copies would be read faster")
    add("--val-share", type=float, metavar="S", help="of the videos, to hold out where no split is made (default .25)")
    add("--val-frames", type=int, metavar="N", help=f"about how many held-out frames to evaluate ({VAL_FRAMES})")
    parser.set_defaults(**_ONLY_WITH_DATA)


def refuse_data_options(args: argparse.Namespace) -> None:
    """Raises UserError if an option is given that is only for --data."""
    given = [name for name, default in _ONLY_WITH_DATA.items() if getattr(args, name) != default]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is for --data PATH: give it, too, or leave it out")


class Training(NamedTuple):
    """One of the trainings.

    Attributes:
        name: in headings and reports.
        folder: its OUTPUT_DIR, in that of everything.
        config: its configuration.
        keys: configuration keys and values that it gets, beside those of the task.
    """

    name: str
    folder: str
    config: str | Path
    keys: list[str]


class Task(NamedTuple):
    """What is to be done.

    Attributes:
        name: begins the names of the datasets.
        output: folder of everything.
        words: options that every training gets.
        keys: configuration keys and values that every training gets.
        trainings: one after the other, each from the weights of the one before.
    """

    name: str
    output: Path
    words: list[str]
    keys: list[str]
    trainings: list[Training]

    @property
    def registration(self) -> Path:
        """The file for --register."""
        return self.output / REGISTRATION

    @property
    def val(self) -> str:
        """The dataset to evaluate on."""
        return f"{self.name}_val"


def train_on_data(args: argparse.Namespace) -> None:
    """Run `vod2 train --data`: find, split, train, evaluate and report. A second call goes on where one stopped."""
    _refuse_other_options(args)
    # The annotations may have gigabytes, which are not kept while processes that read them train.
    with reading_once():
        task, held_out, length = _prepare(args)
    _finish(task, _train(task), held_out, length)


def _prepare(args: argparse.Namespace) -> tuple[Task, dict, int]:
    """Find, describe and register the data: what is to be done, a held-out frame, and how many its video has."""
    layout, name = _find(args)
    output = Path(args.output or Path("output", name.removeprefix("data_")))
    parts = load_parts(name)
    classes = list(MetadataCatalog.get(f"{name}_train").thing_classes)
    print(describe(parts, classes))
    print(_about_split(parts, layout))
    if regions := sum(bool(record.get("ignore_regions")) for record in parts["val"]):
        print(
            f"{regions} held-out frames have regions that are not annotated. Training ignores them, the evaluation "
            "does not: detections there count as false."
        )
    fitted = fit_to_boxes(parts["train"])
    _refuse_other_data(output, _marks(args, parts))  # before a copy takes the place of one of another training
    keys = [
        *("DATASETS.TRAIN", str((f"{name}_train",))),
        *("DATASETS.TEST", str((f"{name}_val",))),
        *("MODEL.ROI_HEADS.NUM_CLASSES", str(len(classes))),
        *args.opts,
    ]
    trainings = _trainings(args, fitted)
    if not args.no_copies:
        configs = [load_config(str(training.config), [*keys, *training.keys]) for training in trainings]
        layout = _with_copies(layout, parts, output, sum(map(_frames_read, configs)))
    _write_registration(output, name, layout, args, parts)
    words = ["--num-gpus", str(args.num_gpus)]
    for file in [*(args.register or []), str(output / REGISTRATION)]:
        words += ["--register", file]
    if not args.config_file:
        print(
            f"Images are resized to {fitted.min_size} pixels, anchors there have {fitted.anchor_sizes} pixels and "
            f"height / width {fitted.aspect_ratios}."
        )
    held_out = parts["val"][0]
    task = Task(name, output, words, keys, trainings)
    return task, held_out, video_lengths(name)[held_out["video_id"]]


def _trainings(args: argparse.Namespace, fitted: Fitted) -> list[Training]:
    """The detector of --config-file, or the single frame, then RDN from its weights."""
    if args.config_file:
        name = config_name(args.config_file)
        iterations = [] if args.iterations is None else ["SOLVER.MAX_ITER", str(args.iterations)]
        return [Training(name, re.sub(r"\W", "_", name), args.config_file, iterations)]
    total = ITERATIONS if args.iterations is None else args.iterations
    # RDN's own part is a third: what it starts with is the detector itself.
    of_rdn = max(total // 3, 1)
    steps = [
        ("single frame", "single_frame", "FasterRCNN.yaml", total - of_rdn),
        ("RDN", "rdn", "RDN.yaml", of_rdn),
    ]
    given = args.opts[::2]
    trainings = []
    for name, folder, config, share in steps:
        keys = ["SOLVER.MAX_ITER", str(share)]
        for key, value in fitted.items():
            if key not in given:
                keys += [key, value]
        trainings.append(Training(name, folder, package_files.CONFIGS / "data" / config, keys))
    return trainings


def _frames_read(cfg: CfgNode) -> int:
    """About how many frames a training reads: of each clip the key frame and its supports."""
    length = 1000  # frames of a video in which a schedule finds all that it looks for
    supports = build_training_schedule(cfg).sample(length // 2, length, np.random.default_rng(0))
    return cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH * (1 + len(supports))


def _refuse_other_options(args: argparse.Namespace) -> None:
    """Raises UserError if something is asked for that --data decides itself, or a number is out of range."""
    if args.eval_only or args.context:
        option = "--eval-only" if args.eval_only else "--context"
        raise UserError(f"{option} is for a configuration: what --data has trained is evaluated by vod2 eval")
    if args.num_machines != 1 or args.machine_rank or args.dist_url != "auto":
        raise UserError("--data trains on one machine: leave out --num-machines, --machine-rank and --dist-url")
    if args.iterations is not None and args.iterations < 3:
        raise UserError(f"--iterations {args.iterations}: expected at least 3")
    for key in args.opts[::2]:
        if key in _DECIDED:
            raise UserError(f"{key} is set by --data: {_DECIDED[key]}")


def _find(args: argparse.Namespace) -> tuple[Layout, str]:
    """Find out what the data are and register them: the layout, and what the names of the datasets begin with."""
    class_names = args.class_names and [name.strip() for name in args.class_names.split(",") if name.strip()]
    if args.class_names is not None and not class_names:
        raise UserError(
            f"--class-names {args.class_names!r}: expected names with commas between them, such as elf,gnome"
        )
    layout = find_layout(args.data, args.format, class_names, args.video_root, args.video_suffix, args.first_frame)
    if args.val_share is not None and "val" in layout.parts:
        raise UserError("--val-share is for data without a part to evaluate on, but these have one: leave it out")
    name = f"data_{_stem(Path(args.data))}"
    register_data(name, layout.format, layout.parts, args.val_share or VAL_SHARE, args.val_frames)
    print(f"{args.data}: {layout.format}")
    if layout.left_out:
        print(f"not used: {', '.join(layout.left_out)}")
    common = common_classes(name, layout)
    if common is not layout:
        register_data(name, common.format, common.parts, args.val_share or VAL_SHARE, args.val_frames)
    return common, name


def _with_copies(layout: Layout, parts: Mapping[str, Sequence[dict]], output: Path, reads: int) -> Layout:
    """The layout with copies of its video files to train on, where `reads` frames of these in any order take longer."""
    role = "train" if "train" in layout.parts else ""
    arguments = layout.parts[role]
    trained = {record["video_file"] for record in parts["train"] if "video_file" in record}
    others = (
        {record["video_file"] for record in parts["val"] if "video_file" in record} - trained if not role else set()
    )
    files = sorted(trained | others)
    root, suffix = arguments.get("video_root"), arguments.get("video_suffix", ".mp4")
    # A copy has the name of its video and .mp4.
    is_flat = root is not None and all(Path(file).parent == Path(root) for file in files)
    if not files or not is_flat or (not suffix and any(Path(file).suffix != ".mp4" for file in files)):
        return layout
    folder = (output / "videos").resolve()
    if not quick_to_read(files, folder, unchanged=others, reads=reads):
        return layout
    copies = {"video_root": str(folder), "video_suffix": suffix and ".mp4"}
    return layout._replace(parts={**layout.parts, role: {**arguments, **copies}})


def _stem(path: Path) -> str:
    """The name of a folder or file without the suffix of annotations, as part of another name."""
    name = re.sub(r"\.(json|json\.gz|xml|csv)$", "", path.resolve().name)
    return re.sub(r"\W", "_", name) or "data"


def describe(parts: dict[str, list[dict]], classes: Sequence[str]) -> str:
    """A table of videos, frames and objects of each class."""
    rows: dict[str, list] = {"videos": [], "frames": []}
    for records in parts.values():
        rows["videos"].append(len({record["video_id"] for record in records}))
        rows["frames"].append(len(records))
    lines = [[name, *numbers] for name, numbers in rows.items()]
    counts = []  # of each part, the objects by label
    for records in parts.values():
        counts.append(Counter(found["category_id"] for record in records for found in record.get("annotations", [])))
    for label, name in enumerate(classes):
        lines.append([f"objects: {name}", *(of_part[label] for of_part in counts)])
    return tabulate(lines, ["", *parts])


def _about_split(parts: dict[str, list[dict]], layout: Layout) -> str:
    if "val" in layout.parts:
        return "The data have a part to train on and one to evaluate on."
    shared = {record["video_id"] for record in parts["train"]} & {record["video_id"] for record in parts["val"]}
    if shared:
        return (
            "There are too few videos to hold some out, so the last frames of each are: what is measured on them does "
            "not say how well other videos are detected."
        )
    return "The last videos of each class, by their names, are held out."


def _marks(args: argparse.Namespace, parts: Mapping[str, Sequence[dict]]) -> str:
    """Comments by which the file for --register tells its data from others."""
    return f"# {Path(args.data).resolve()}\n# SHA-256 of frames, classes and boxes: {digest_of(parts)}\n"


def _refuse_other_data(output: Path, text: str) -> None:
    """Raises UserError if the folder has a file for --register that does not end with `text`."""
    path = output / REGISTRATION
    if path.is_file() and not path.read_text(encoding="utf-8").endswith(text):
        raise UserError(
            f"{path} is of other data, of another split, or of annotations that have changed: give another --output, "
            f"or move {output} away"
        )


def _write_registration(
    output: Path, name: str, layout: Layout, args: argparse.Namespace, parts: Mapping[str, Sequence[dict]]
) -> None:
    """Write the file for --register; raises UserError if the folder has that of other data or annotations."""
    path = output / REGISTRATION
    text = registration_text(name, layout, args.val_share or VAL_SHARE, args.val_frames)
    text += _marks(args, parts)
    _refuse_other_data(output, text)
    output.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _train(task: Task) -> dict[str, Path]:
    """All trainings, one after the other; returns their folders by name."""
    runs: dict[str, Path] = {}
    weights: list[str] = []
    for training in task.trainings:
        run = runs[training.name] = task.output / training.folder
        keys = [*task.keys, *training.keys, *weights]
        train_step(f"{training.name}: train and evaluate", run, task.val, training.config, keys, task.words)
        weights = ["MODEL.WEIGHTS", str(run / "model_final.safetensors")]
    return runs


def _finish(task: Task, runs: dict[str, Path], held_out: dict, length: int) -> None:
    """The reports, among them one of the video of the held-out frame, which has `length`, and what to do next."""
    folders = [f"{name}={folder}" for name, folder in runs.items()]
    page = task.output / "report.html"
    run_step("Report", "report", *folders, "--register", task.registration, "--output", page)
    last = list(runs.values())[-1]
    model = ["--config-file", str(last / "config.yaml")]
    weights = ["--opts", "MODEL.WEIGHTS", str(last / "model_final.safetensors")]
    video = _video_of(held_out, length)
    if video is None:
        print(
            f"\nNo page of a held-out video: {held_out['video_id']} is longer than {MOST_SHOWN} frames, or not a "
            "folder."
        )
    else:
        page_of_video = task.output / "video.html"
        run_step("A held-out video", "detect", *model, "--video-input", video, "--report", page_of_video, *weights)
    command = shlex.join([*model, "--video-input", "VIDEO", "--output", "out.mp4", *weights])
    print(f"\nThe report is {page}. Objects in other videos:\n\n  {command_line('detect')} {command}")


def _video_of(record: dict, length: int) -> str | None:
    """The video of a frame, for `vod2 detect`; None if its `length` is too much for a page, or its folder has more."""
    if length > MOST_SHOWN:
        return None
    if "video_file" in record:
        return record["video_file"]
    folder = Path(record["file_name"]).parent
    return str(folder) if len(images_in(folder)) == length else None
