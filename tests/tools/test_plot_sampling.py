"""tools/plot_sampling.py: the motion of objects, by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vod2.d2 import BoxMode, DatasetCatalog
from vod2.engine import load_config
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAME = "plot_sampling_of_two_frames"


@pytest.fixture(scope="module")
def plot_sampling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plot_sampling", ROOT / "tools" / "plot_sampling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moved(tool: ModuleType, *frames: list[tuple[int, float, float]]) -> np.ndarray:
    """`object_motion` of a video of 64x96 pixels, not resized, with (track, x, y) of the objects of each frame."""
    dicts = [
        {"video_id": "v", "frame_index": t, "height": 64, "width": 96, "annotations": [boxed(*one) for one in objects]}
        for t, objects in enumerate(frames)
    ]
    cfg = load_config("configs/quick/LSTS.yaml", ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96])
    DatasetCatalog.register(NAME, lambda: dicts)
    try:
        return tool.object_motion(NAME, cfg, np.random.default_rng(0))
    finally:
        DatasetCatalog.remove(NAME)


def boxed(track: int, x: float, y: float) -> dict:
    return {"bbox": [x - 8, y - 8, x + 8, y + 8], "bbox_mode": BoxMode.XYXY_ABS, "track_id": track}


def test_motion_leads_back_to_where_the_object_was_in_cells(plot_sampling):
    assert moved(plot_sampling, [(3, 16, 16)], [(3, 48, 24)]).tolist() == [[-2.0, -0.5]]


def test_objects_without_a_track_have_no_motion(plot_sampling):
    first, second = [(3, 16, 16), (-1, 80, 48)], [(3, 32, 16), (-1, 20, 20)]
    assert moved(plot_sampling, first, second).tolist() == [[-1.0, 0.0]]


def test_without_tracks_it_says_what_is_expected(plot_sampling):
    with pytest.raises(UserError, match="expected tracks"):
        moved(plot_sampling, [(-1, 16, 16)], [(-1, 48, 24)])
