"""tools/plot_patches.py: where a patch lies in its RoI, and whose numbers are drawn where."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from helpers.models import make_video, tiny_cfg
from helpers.modules import load_module
from vod2 import UserError, VideoPredictor
from vod2.engine.random_weights import draw_weights

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "StCIE",
    "MODEL.CSMN.STCIE.RELATION_DIM": 8,
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.VIDEO.KEEP_RELATIONS": True,
    "VIDEO.TEST_SCHEDULE.NAME": "GlobalSample",
    "VIDEO.TEST_SCHEDULE.COUNT": 3,
}


@pytest.fixture(scope="module")
def plot_patches() -> ModuleType:
    return load_module(ROOT / "tools" / "plot_patches.py")


@pytest.fixture(scope="module")
def watched(plot_patches) -> tuple:
    """Frame 3 of a video of images twice the size that the model sees: (watch, image, instances), and all images."""
    predictor = VideoPredictor(tiny_cfg(KEYS))
    draw_weights(predictor.model)
    images = [np.kron(image.permute(1, 2, 0).numpy(), np.ones((2, 2, 1), np.uint8)) for image in make_video(5)]
    return *plot_patches.detect(predictor, SimpleNamespace(with_gaps=lambda: iter(images)), 3), images


@pytest.mark.parametrize(
    "grid, side, expected",
    [(3, 7, [0, 2 / 7, 5 / 7, 1]), (2, 7, [0, 4 / 7, 1]), (7, 7, [i / 7 for i in range(8)]), (2, 4, [0, 0.5, 1])],
)
def test_patches_end_where_their_cells_of_the_roi_end(plot_patches, grid, side, expected):
    np.testing.assert_allclose(plot_patches.patch_edges(grid, side), expected)


def test_the_patch_with_the_largest_number_is_the_reddest(plot_patches):
    values = np.array([0.1, 0.2, 0.6, 0.1])
    tile = plot_patches.Tile(np.full((40, 40, 3), 100, np.uint8), [10, 10, 30, 30], values, "")
    drawn = plot_patches.draw_patches(tile, np.array([0, 0.5, 1]), side=100).astype(int)
    red = [drawn[row, column, 2] - drawn[row, column, 0] for row in (10, 60) for column in (45, 95)]
    # 0.6 of the way to (0, 0, 255) where the number is largest, in proportion elsewhere; untouched it is grey
    assert red == pytest.approx([255 * 0.6 * value / 0.6 for value in values], abs=2)


def test_the_roi_is_cut_out_of_its_box(plot_patches):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:50] = 200
    tile = plot_patches.Tile(image, [20, 10, 50, 30], np.zeros(25), "")
    drawn = plot_patches.draw_patches(tile, np.linspace(0, 1, 6), side=50)
    assert drawn[5:45, 5:45].min() > 190


def test_a_row_holds_the_importance_and_then_the_similarities_of_the_supports(plot_patches, watched):
    watch, image, found, images = watched
    assert watch.importance.sum(dim=1).numpy() == pytest.approx(1)
    assert watch.weights.sum(dim=2).numpy() == pytest.approx(1)
    rows = plot_patches.rows_of(watch, image, found[torch.tensor([0, 1])], ["a"] * 5, supports=4)
    assert [len(row) for row in rows] == [5, 5]
    proposal = int(found.proposal_index[0])
    assert rows[0][0].values.tolist() == watch.importance[proposal].tolist()
    assert rows[0][0].box == pytest.approx((2 * watch.boxes[proposal]).tolist(), abs=1e-3)
    for one, tile in zip(watch.supports(proposal, 4), rows[0][1:], strict=True):
        taken = float(tile.values @ watch.importance[proposal].numpy())
        assert taken == pytest.approx(one.weight, rel=1e-4) and any(tile.image is frame for frame in images)
        assert tile.title.startswith(f"frame {one.index}: ")


def test_rows_of_different_lengths_make_one_picture(plot_patches):
    tile = plot_patches.Tile(np.zeros((40, 40, 3), np.uint8), [0, 0, 20, 20], np.ones(4), "one")
    picture = plot_patches.picture_of([[tile, tile, tile], [tile]], np.array([0, 0.5, 1]))
    assert picture.shape[1] == 3 * plot_patches.SIDE and picture.shape[0] > 2 * plot_patches.SIDE


def test_a_frame_beyond_the_video_is_refused(plot_patches):
    predictor = VideoPredictor(tiny_cfg(KEYS))
    images = [image.permute(1, 2, 0).numpy() for image in make_video(2)]
    with pytest.raises(UserError, match="--frame 2: the video has no such frame"):
        plot_patches.detect(predictor, SimpleNamespace(with_gaps=lambda: iter(images)), 2)


@pytest.mark.parametrize(
    "keys", [{"MODEL.CSMN.SPFA.PATCHES": 1}, {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator"}]
)
def test_a_model_that_compares_no_patches_is_refused(plot_patches, keys):
    with pytest.raises(UserError, match="expected 'SPFAAggregator' with more than one patch"):
        plot_patches.require_patches(tiny_cfg(KEYS | keys))


def test_the_tool_writes_the_picture(plot_patches, tmp_path, monkeypatch):
    """From images in a folder and weights in a file, by its command line."""
    keys = ["MODEL.CSMN.SPFA.PATCHES", "4"]
    predictor = VideoPredictor(plot_patches.load_config(str(ROOT / "configs/quick/CSMN.yaml"), keys), weights="")
    torch.save({"model": predictor.model.state_dict()}, tmp_path / "csmn.pth")
    (tmp_path / "video").mkdir()
    for index, image in enumerate(make_video(2)):
        cv2.imwrite(str(tmp_path / "video" / f"{index}.png"), image.permute(1, 2, 0).numpy())
    words = f"--config-file {ROOT}/configs/quick/CSMN.yaml --video-input {tmp_path}/video --frame 1"
    options = ["--opts", "MODEL.WEIGHTS", str(tmp_path / "csmn.pth"), *keys, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    monkeypatch.setattr(sys, "argv", ["plot_patches.py", *words.split(), "--output", f"{tmp_path}/out.png", *options])
    plot_patches.main()
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture.shape[1] == 6 * plot_patches.SIDE
