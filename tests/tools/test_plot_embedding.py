"""tools/plot_embedding.py: which proposals are drawn, their features, and where they lie in the plane."""

import importlib.util
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from helpers.models import tiny_cfg
from helpers.modules import load_module
from vod2 import VideoPredictor
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.engine.cli import run
from vod2.engine.random_weights import draw_weights
from vod2.errors import UserError
from vod2.modeling import propose_frames
from vod2.structures import Clip, Role, TemporalContext

TOOL = Path(__file__).resolve().parents[2] / "tools" / "plot_embedding.py"
plot_embedding = load_module(TOOL)

VIDEOS, FRAMES, HEIGHT, WIDTH = 4, 3, 128, 192
OBJECTS = [[x, y, 28, 28] for x in range(0, WIDTH - 28, 10) for y in range(0, HEIGHT - 28, 10)]
"""So many that proposals of random weights show one."""
KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "HVRAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 1,
    "DATASETS.TEST": ("embedded",),
}


@pytest.fixture(scope="module")
def dicts(tmp_path_factory) -> list[dict]:
    """Videos of noise, twice the size that the model sees, registered; classes are those of the even and odd ones."""
    folder, rng, records = tmp_path_factory.mktemp("embedded"), np.random.default_rng(0), []
    for video in range(VIDEOS):
        for index in range(FRAMES):
            file = folder / f"{video}_{index}.png"
            noise = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
            cv2.imwrite(str(file), noise.repeat(16, axis=0).repeat(16, axis=1))
            notes = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": video % 2} for box in OBJECTS]
            record = {"file_name": str(file), "image_id": f"{video}/{index}", "height": HEIGHT, "width": WIDTH}
            record |= {"video_id": f"v{video}", "frame_index": index, "video_length": FRAMES}
            records.append(record | {"annotations": notes})
    DatasetCatalog.register("embedded", lambda: records)
    MetadataCatalog.get("embedded").set(thing_classes=["cat", "dog"], evaluator_type="vid")
    yield records
    DatasetCatalog.remove("embedded")
    MetadataCatalog.remove("embedded")


def predictor(keys: dict) -> VideoPredictor:
    made = VideoPredictor(tiny_cfg(KEYS | keys))
    draw_weights(made.model)
    return made


def collect(dicts: list[dict], keys: dict, per_class: int, seed: int = 0) -> list:
    cfg, model = tiny_cfg(KEYS | keys), predictor(keys).model
    stream = plot_embedding.frames_of_videos("embedded", 99, np.random.default_rng(0))
    return plot_embedding.collect(cfg, model, stream, per_class, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["HVRAggregator", "RDNAggregator", "RDNAggregator+MSTAggregator"])
def test_features_are_those_before_and_after_the_aggregator(dicts, name):
    head = "LinearBoxHead" if name == "HVRAggregator" else "FastRCNNConvFCHead"
    keys = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": name, "MODEL.ROI_BOX_HEAD.NAME": head}
    drawn = collect(dicts, keys, per_class=1000)
    made, t = predictor(keys), 1
    model, images = made.model, [cv2.imread(one["file_name"]) for one in dicts[:FRAMES]]
    with torch.no_grad():  # frame 1 of the first video, with both others and itself as supports
        resized = [made.resize.get_transform(image).apply_image(image) for image in images]
        clips = [
            {"image": torch.from_numpy(image).permute(2, 0, 1), "frame_index": i} for i, image in enumerate(resized)
        ]
        frames, _ = propose_frames(model.proposal_generator, model.roi_heads, model.encode(clips))
        context = TemporalContext(tuple(frames), (Role.LOCAL,) * FRAMES)
        after = model.roi_heads.aggregate([Clip(frames[t], context)])[0].value
    own = [one for one in drawn if one.image_id == "0/1"]
    query = frames[t].proposals
    assert own and len(drawn) > len(own)
    for one in own:
        row = int((2 * query.boxes - torch.from_numpy(one.box)).abs().amax(dim=1).argmin())
        np.testing.assert_allclose(one.box, 2 * query.boxes[row].numpy(), atol=0.1)
        np.testing.assert_allclose(one.before, query.features[row].numpy(), atol=1e-2 * query.features.abs().max())
        np.testing.assert_allclose(one.after, after[row].numpy(), atol=1e-2 * after.abs().max())
        assert not np.allclose(one.before, one.after)
    assert "detect" not in vars(model.roi_heads)


def test_no_more_of_a_class_are_drawn_than_asked_for_and_the_seed_decides_which(dicts):
    everything = collect(dicts, {}, per_class=1000)
    assert {one.label for one in everything} == {0, 1} and all(one.label == int(one.video[1]) % 2 for one in everything)
    first, again, other = (collect(dicts, {}, per_class=3, seed=seed) for seed in (1, 1, 2))
    assert [one.label for one in first] == [0] * 3 + [1] * 3
    boxes = [[(one.image_id, *one.box) for one in sample] for sample in (first, again, other, everything)]
    assert boxes[0] == boxes[1] != boxes[2] and {*boxes[0], *boxes[2]} <= set(boxes[3])


def test_every_proposal_of_a_class_is_drawn_with_equal_chance():
    counts = np.zeros(10)
    for seed in range(2000):
        sample = plot_embedding.ClassSample(3, np.random.default_rng(seed))
        for number in range(10):
            sample.add(plot_embedding.Proposal(number, number, 0, "v", "v", np.zeros(4)))
        counts[[one.before for one in sample.drawn()]] += 1
    np.testing.assert_allclose(counts / 2000, 0.3, atol=0.045)  # four standard deviations


def test_a_proposal_shows_the_object_that_it_overlaps_by_half():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 19], [0, 0, 10, 21], [30, 0, 40, 10], [60, 0, 70, 10]])
    notes = [
        {"bbox": [0, 0, 10, 10], "category_id": 4},
        {"bbox": [31, 0, 9, 10], "category_id": 2, "bbox_mode": BoxMode.XYWH_ABS},
        {"bbox": [60, 0, 70, 10], "category_id": 3, "iscrowd": 1},
    ]
    notes = [{"bbox_mode": BoxMode.XYXY_ABS} | note for note in notes]
    rows, labels = plot_embedding.shown_objects(boxes, {"annotations": notes})
    assert (rows.tolist(), labels.tolist()) == ([0, 1, 3], [4, 4, 2])
    assert [len(part) for part in plot_embedding.shown_objects(boxes, {})] == [0, 0]


def test_principal_components_keep_the_distances_of_points_in_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(20, 2)) * [5, 1]
    turned = plane @ np.linalg.qr(rng.normal(size=(7, 7)))[0][:2] + 3
    places = plot_embedding.project(turned, "pca", seed=0)
    apart = [np.linalg.norm(points[:, None] - points, axis=2) for points in (plane, places)]
    np.testing.assert_allclose(*apart, atol=1e-9)
    assert places[:, 0].std() > places[:, 1].std()


def test_the_nearest_of_another_video_is_asked_for_its_class():
    features = np.array([[0.0], [0.1], [1.0], [1.1], [5.0]])
    labels, videos = np.array([0, 0, 0, 1, 1]), ["a", "a", "b", "b", "c"]
    # a: 1.0 of b is nearest, class 0, twice right; b: 0.1 of a, right for the first, wrong; c: 1.1 of b, right
    assert plot_embedding.same_class_share(features, labels, videos) == pytest.approx(4 / 5)
    # A class of one video alone can find no other of its own.
    alone = np.append(features, [[1.05]], axis=0), np.append(labels, 2), [*videos, "d"]
    assert plot_embedding.same_class_share(*alone) == pytest.approx(3 / 5)  # 1.05 is nearest to both of b
    assert np.isnan(plot_embedding.same_class_share(features, labels, ["a"] * 5))


def test_t_sne_is_given_the_seed_and_few_enough_neighbours(monkeypatch):
    class FakeTSNE:
        def __init__(self, components, **options):
            assert components == 2
            self.options = options

        def fit_transform(self, features):
            self.options["shape"] = features.shape
            return self.options

    manifold = types.SimpleNamespace(TSNE=FakeTSNE)
    monkeypatch.setitem(sys.modules, "sklearn", types.SimpleNamespace(manifold=manifold))
    monkeypatch.setitem(sys.modules, "sklearn.manifold", manifold)
    features = np.random.default_rng(0).normal(size=(61, 80))
    options = plot_embedding.project(features, "tsne", seed=5)
    assert options == {"perplexity": 20.0, "init": "pca", "random_state": 5, "shape": (61, 50)}


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["plot_embedding.py", *map(str, words)])
    run(plot_embedding.main)


@pytest.fixture
def without_sklearn(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))


@pytest.fixture
def arguments(dicts, tmp_path) -> list:
    (tmp_path / "model.yaml").write_text(tiny_cfg(KEYS).dump())
    torch.save({"model": predictor({}).model.state_dict()}, tmp_path / "weights.pth")
    return ["--config-file", tmp_path / "model.yaml", "--weights", tmp_path / "weights.pth"]


def test_the_command_writes_the_picture_and_the_numbers(arguments, without_sklearn, monkeypatch, capsys, tmp_path):
    call(monkeypatch, *arguments, "--per-class", "4", "--videos", "3", "--output", tmp_path / "out.png")
    printed = capsys.readouterr().out
    assert "scikit-learn is not installed" in printed and "principal components" in printed
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture.shape[1] == 1400 and picture.std() > 10
    with np.load(tmp_path / "out.npz") as numbers:
        assert numbers["label"].tolist() == [0] * 4 + [1] * 4 and numbers["class_names"].tolist() == ["cat", "dog"]
        assert numbers["places"].shape == (2, 8, 2) and numbers["before"].shape == numbers["after"].shape
        assert len(set(numbers["video"].tolist())) <= 3 and str(numbers["projection"]) == "pca"
        for side, places in zip(("before", "after"), numbers["places"], strict=True):
            np.testing.assert_allclose(places, plot_embedding.principal_components(numbers[side], 2))
        shares = [f"{share:.1%}" for share in numbers["same_class"]]
    assert all(share in printed for share in shares)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "absent"], "dataset 'absent' is not registered"),
        (["--classes", "cat", "cow"], "--classes cow: expected some of cat, dog"),
        (["--projection", "tsne"], 'needs scikit-learn: pip install "vod2[embedding]"'),
        (["--per-class", "0"], "--per-class 0: expected at least 1"),
        (["--output", "out.npz"], "ends in .png"),
        (["--opts", "MODEL.WEIGHTS", "absent.pth"], "absent.pth"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, without_sklearn, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments, *words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_only_the_asked_classes_are_drawn(dicts):
    kept = plot_embedding.only_classes(dicts, ["dog"], ["cat", "dog"])
    assert [len(record["annotations"]) for record in kept] == ([0] * 3 + [len(OBJECTS)] * 3) * 2


def test_a_model_without_an_aggregator_has_nothing_to_compare(dicts):
    with pytest.raises(UserError, match="no proposal aggregator"):
        collect(dicts, {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": ""}, 5)
