"""tools/plot_sampling.py: the motion of objects, by hand, and the picture of a training."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from helpers.modules import load_module
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data.datasets import register_imagenet_vid
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_synthetic
from vod2.engine import load_config
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LSTS = str(ROOT / "configs" / "quick" / "LSTS.yaml")


@pytest.fixture(scope="module")
def plot_sampling() -> ModuleType:
    return load_module(ROOT / "tools" / "plot_sampling.py")


def moved(tool: ModuleType, *frames: list[tuple[int, float, float]], steps=(1,)) -> list:
    """`object_motion` of a video of 64x96 pixels, not resized, with (track, x, y) of the objects of each frame."""
    dicts = [
        {"video_id": "v", "frame_index": t, "height": 64, "width": 96, "annotations": [boxed(*one) for one in objects]}
        for t, objects in enumerate(frames)
    ]
    cfg = load_config(LSTS, ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96])
    return sorted(tool.object_motion(dicts, steps, cfg, np.random.default_rng(0)).tolist())


@contextmanager
def registered(name: str, folder: Path) -> Iterator[None]:
    register_imagenet_vid(name, folder, "train", SYNTHETIC_CLASSES)
    try:
        yield
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def boxed(track: int, x: float, y: float) -> dict:
    return {"bbox": [x - 8, y - 8, x + 8, y + 8], "bbox_mode": BoxMode.XYXY_ABS, "track_id": track}


def test_motion_leads_back_to_where_the_object_was_in_cells(plot_sampling):
    assert moved(plot_sampling, [(3, 16, 16)], [(3, 48, 24)]) == [[-2.0, -0.5]]


def test_objects_without_a_track_have_no_motion(plot_sampling):
    first, second = [(3, 16, 16), (-1, 80, 48)], [(3, 32, 16), (-1, 20, 20)]
    assert moved(plot_sampling, first, second) == [[-1.0, 0.0]]


def test_only_the_distances_that_are_asked_for_count(plot_sampling):
    frames = [[(3, 16, 16)], [(3, 32, 16)], [(3, 64, 16)]]
    assert moved(plot_sampling, *frames, steps=(2,)) == [[-3.0, 0.0]]
    assert moved(plot_sampling, *frames, steps=(1, 2)) == [[-3.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]]


def test_the_distances_are_those_that_training_draws(plot_sampling):
    cfg, rng = load_config(LSTS, ["VIDEO.TRAIN_SCHEDULE.INTERVAL", 4]), np.random.default_rng(0)
    assert plot_sampling.drawn_distances(cfg, rng) == [[1, 2, 3], [2, 3, 4, 5, 6]]
    cfg = load_config(LSTS, ["VIDEO.TRAIN_SCHEDULE.TRIPLET", "online"])
    assert plot_sampling.drawn_distances(cfg, rng) == [list(range(1, 11)), list(range(1, 15))]


def test_locations_that_two_aligners_share_are_shown_once(plot_sampling):
    assert list(plot_sampling.initial_locations(load_config(LSTS))) == ["pixel_aggregator.align.layer.locations"]
    apart = plot_sampling.initial_locations(load_config(LSTS, ["MODEL.LSTS.SHARED_LOCATIONS", False]))
    assert len(apart) == 2


def test_without_tracks_it_says_what_is_expected(plot_sampling):
    with pytest.raises(UserError, match="expected tracks"):
        moved(plot_sampling, [(-1, 16, 16)], [(-1, 48, 24)])


def test_all_frames_of_the_videos_count_whatever_the_list_names(plot_sampling, tmp_path):
    write_synthetic(SyntheticConfig(0, train_videos=3, val_videos=0, frames=20, height=64, width=96), tmp_path)
    with registered("three_videos", tmp_path):
        assert len(DatasetCatalog.get("three_videos")) == 3 * 15
        frames = plot_sampling.sampled_frames("three_videos", np.random.default_rng(0))
    assert sorted((frame["video_id"][-1], frame["frame_index"]) for frame in frames) == [
        (video, frame) for video in "012" for frame in range(20)
    ]


def test_one_command_shows_what_a_training_began_with_and_what_it_learned(plot_sampling, tmp_path, monkeypatch, capsys):
    config = SyntheticConfig(0, train_videos=2, val_videos=0, frames=20, height=64, width=96, classes=6)
    write_synthetic(config, tmp_path / "synthetic")
    one_step = "MODEL.ALIGNER.LR_MULTIPLIER 0.0 SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 1 DATALOADER.NUM_WORKERS 0"
    words = ["--config-file", LSTS, *one_step.split(), "DATASETS.TEST", "()", "MODEL.WEIGHTS", "", "SEED", "7"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(tmp_path)}
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words, "OUTPUT_DIR", "out"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)

    words = ["--weights", "out/model_final.pth", "--output", "seen.png", "--opts", "DATASETS.TRAIN", '("two_videos",)']
    monkeypatch.setattr(sys, "argv", ["plot_sampling.py", "--config-file", LSTS, *words, "SEED", "7"])
    monkeypatch.chdir(tmp_path)
    with registered("two_videos", tmp_path / "synthetic"):
        plot_sampling.main()
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[2:6:2]] == [["motion,", "1"], ["motion,", "5"]]
    (initial, *initial_x), initial_y, (learned, *learned_x), learned_y = rows[6:10]
    assert (initial, learned) == ("initial", "learned")
    assert (initial_x, initial_y) == (learned_x, learned_y)  # at a learning rate of 0 they have not moved
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
