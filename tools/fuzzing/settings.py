"""Readers of what a user sets: configurations, suites, words, names."""

import warnings
from pathlib import Path

import yaml

from fuzzing.target import CLASSES, Target, text
from vod2.ablation.cost import measured_seconds
from vod2.ablation.suite import load_suite
from vod2.engine import load_config
from vod2.engine.class_names import read_names
from vod2.engine.registration import register_files
from vod2.engine.rows import load_rows
from vod2.evaluation.frame_kinds import read_frame_kinds


def names_json(folder: Path) -> Target:
    """Names of classes as JSON."""
    file = folder / "names.json"
    return Target(file, (text(CLASSES),), lambda: read_names(file))


def names_text(folder: Path) -> Target:
    """Names of classes as lines."""
    file = folder / "names.txt"
    return Target(file, (b"elf\ngnome\n",), lambda: read_names(file))


def config(folder: Path) -> Target:
    """A configuration."""
    (folder / "base.yaml").write_text("SOLVER: {BASE_LR: 0.01}\n")
    file = folder / "config.yaml"
    seeds = (
        b"_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 5\n  STEPS: (3, 4)\nMODEL: {DEVICE: cpu, PIXEL_STD: [1.0, 2, 3]}\n",
        b"SOLVER: &a {MAX_ITER: 7}\n<<: {SEED: 1}\nOUTPUT_DIR: x\nINPUT: {MAX_SIZE_TEST: 0x10}\n",
    )
    return Target(file, seeds, lambda: load_config(str(file)))


def overrides(folder: Path) -> Target:
    """KEY VALUE pairs of a command line, a word on each line."""
    file = folder / "words.txt"
    seeds = (
        b"SOLVER.MAX_ITER\n5\nSOLVER.STEPS\n(3, 4)\nMODEL.DEVICE\ncpu",
        b"INPUT.MIN_SIZE_TRAIN\n[1, 2]\nMODEL.ANCHOR_GENERATOR.SIZES\n[[1.0], [2.5e1]]\nSEED\n-1",
    )

    def read() -> None:
        load_config("", file.read_bytes().decode("utf-8", "surrogateescape").split("\n"))

    return Target(file, seeds, read)


def rows(folder: Path) -> Target:
    """A file of rows, as in configs/ablations."""
    (folder / "base.yaml").write_text("SEED: 1\n")
    file = folder / "rows.yaml"
    row = {"what": "x", "base": "base.yaml", "overrides": {"SEED": 2}, "paper": {"mAP": 81.8}}
    content = {"prefix": "P", "tables": {"T 1": {"what": "y", "kind": "train", "rows": {"A": row}}}}

    def read() -> None:
        for name in load_rows(file).rows:
            load_config(f"{file}:{name}")

    return Target(file, (text(content), yaml.safe_dump(content).encode()), read)


def suite(folder: Path) -> Target:
    """A suite of tools/ablate.py."""
    (folder / "base.yaml").write_text("SEED: 1\n")
    file = folder / "suite.yaml"
    content = {
        "metrics": ["vid/AP50"],
        "reference": "A",
        "sizes": {"s": {"iterations": 5, "overrides": {"SEED": 3}, "frames": 4, "train": ["x"], "test": ["y"]}},
        "rows": [
            {"name": "A", "config": "base.yaml", "iterations": {"s": 3}, "seconds_per_iteration": 0.5},
            {"name": "B", "config": "base.yaml", "base": "A", "contexts": ["own", "none"], "overrides": {"SEED": 2}},
        ],
    }
    return Target(file, (text(content), yaml.safe_dump(content).encode()), lambda: load_suite(file))


def registered_file(folder: Path) -> Target:
    """A Python file of --register, which may raise anything: its message is the user's."""
    file = folder / "register.py"
    # Only what cannot be compiled is tried: whatever can is the user's own program.
    return Target(file, (b"x = 1\n", b"x = (\n", b"# coding: utf-7\n+\n", b"\0"), lambda: _compiled(file))


def _compiled(file: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(file.read_bytes(), str(file), "exec")
    except Exception:
        register_files([str(file)])


def frame_kinds(folder: Path) -> Target:
    """Which frames are deteriorated."""
    records = [{"image_id": f"v/{i}", "video_id": "v", "frame_index": i, "video_length": 3} for i in range(3)]
    file = folder / "kinds.json"
    seed = {"v": {"0": ["blur"], "1-2": {"dark": 0.5}}, "v/0": ["noise"]}
    return Target(file, (text(seed),), lambda: read_frame_kinds(file, records))


def seconds(folder: Path) -> Target:
    """What tools/ablate.py has measured."""
    file = folder / "seconds_per_iteration.json"
    return Target(file, (text({"cpu": {"A": 0.5}}),), lambda: measured_seconds(folder, "cpu"))
