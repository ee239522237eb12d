"""tools/link_boxes.py: a results file in, linked boxes and AP before and after out."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.modules import load_module
from vod2.d2 import Boxes, BoxMode, DatasetCatalog, Instances, MetadataCatalog
from vod2.errors import UserError
from vod2.evaluation import RelationWriter
from vod2.modeling import BLR

ROOT = Path(__file__).resolve().parents[2]
HERE, THERE = [10.0, 10.0, 60.0, 60.0], [80.0, 10.0, 94.0, 40.0]
COLUMNS = ("image", "boxes", "scores", "labels")


@pytest.fixture(scope="module")
def link_boxes() -> Callable[[list[str]], None]:
    return load_module(ROOT / "tools" / "link_boxes.py").main


@pytest.fixture(autouse=True)
def dataset(tmp_path, monkeypatch) -> Iterator[None]:
    """ "three_frames": a video of f0, f1, f2 with an object at HERE, in a dataset that lists its frames backwards."""
    monkeypatch.chdir(tmp_path)
    note = {"bbox": HERE, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 0, "track_id": 0}
    records = [
        {"file_name": f"{t}.png", "image_id": f"f{t}", "height": 64, "width": 96, "annotations": [note]}
        | {"video_id": "v", "frame_index": t, "video_length": 3}
        for t in (2, 1, 0)
    ]
    DatasetCatalog.register("three_frames", lambda: records)
    MetadataCatalog.get("three_frames").set(thing_classes=["cat", "dog"], evaluator_type="vid")
    yield
    DatasetCatalog.remove("three_frames")
    MetadataCatalog.remove("three_frames")


@pytest.fixture
def results(dataset) -> dict[str, np.ndarray]:
    """HERE in all three frames (.9, .3, .6), THERE in the second (.5); written to detections.npz, too."""
    values = {
        "image_ids": np.array(["f2", "f1", "f0"]),
        "image": np.array([0, 1, 1, 2], np.int32),
        "boxes": np.array([HERE, HERE, THERE, HERE], np.float32),
        "scores": np.array([0.9, 0.3, 0.5, 0.6], np.float32),
        "labels": np.array([1, 1, 1, 1], np.int32),
    }
    np.savez("detections.npz", **values)
    return values


def expect_linked(path: str) -> None:
    with np.load(path) as linked:
        assert linked["image_ids"].tolist() == ["f2", "f1", "f0"]
        assert linked["image"].tolist() == [0, 1, 1, 2]
        assert linked["scores"].tolist() == pytest.approx([0.6, 0.6, 0.5, 0.6], abs=1e-6)
        assert linked["track_ids"].tolist() == [0, 0, 1, 0]
        assert linked["boxes"][2].tolist() == THERE


def test_linked_boxes_are_written_with_tracks_and_ap_is_printed(link_boxes, results, capsys):
    """By hand: THERE is false and above one of three before (2/3 + 1/3 * 3/4), below all of them afterwards."""
    link_boxes("detections.npz --dataset three_frames --linker SeqNMS --output linked".split())
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if len(line.split()) == 3}
    assert rows["AP50"] == ["91.67", "100.00"] and "nan" not in printed
    assert json.loads(Path("linked", "results.json").read_text())["vid"]["AP50"] == 100
    expect_linked("linked/detections.npz")


def test_results_in_cocos_format_are_read_too(link_boxes, results):
    entries = [
        {
            "image_id": results["image_ids"][image].item(),
            "category_id": int(label),
            "bbox": BoxMode.convert(box.tolist(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS),
            "score": float(score),
        }
        for image, box, score, label in zip(*(results[name] for name in COLUMNS), strict=True)
    ]
    Path("coco.json").write_text(json.dumps(entries))
    link_boxes("coco.json --dataset three_frames --linker SeqNMS --output linked --opts RESCORE mean".split())
    expect_linked("linked/detections.npz")


def test_results_without_any_box_stay_so(link_boxes, results):
    nothing = {name: values[:0] for name, values in results.items()}
    np.savez("detections.npz", **(nothing | {"image_ids": results["image_ids"]}))
    link_boxes("detections.npz --dataset three_frames --linker TubeletLinking --output linked".split())
    with np.load("linked/detections.npz") as linked:
        assert len(linked["track_ids"]) == 0 and len(linked["image_ids"]) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        ("nothing.npz --dataset three_frames --linker SeqNMS", "nothing.npz: .*detections.npz of an evaluation"),
        ("other.npz --dataset three_frames --linker SeqNMS", "other.npz: image_id 'strange' is not in the dataset"),
        ("broken.npz --dataset three_frames --linker SeqNMS", "broken.npz"),
        ("broken.json --dataset three_frames --linker SeqNMS", "broken.json holds no detections"),
        ("detections.npz --dataset no_such --linker SeqNMS", "'no_such' is not registered"),
        ("detections.npz --dataset three_frames --linker SeqNMS --opts LINK_IOU 2.0", "LINK_IOU.*2.0"),
        ("detections.npz --dataset three_frames --linker SeqNMS --opts LINK_IOU", "'LINK_IOU' has no value"),
        ("detections.npz --dataset three_frames --linker SeqNMS --opts NO_KEY 1", "NO_KEY"),
    ],
)
def test_mistakes_are_told_with_what_to_do(link_boxes, results, words, message):
    np.savez("other.npz", **(results | {"image_ids": np.array(["strange", "b", "c"])}))
    Path("broken.npz").write_bytes(b"PK not a zip")
    Path("broken.json").write_text('[{"image_id": "f0"}]')
    with pytest.raises(UserError, match=message):
        link_boxes(words.split())


def test_blr_without_the_relations_of_an_evaluation_says_how_to_get_them(link_boxes, results):
    with pytest.raises(UserError, match="relations.npz holds no relations.*KEEP_RELATIONS"):
        link_boxes("detections.npz --dataset three_frames --linker BLR".split())


def test_blr_links_a_results_file_as_it_links_the_detections_themselves(link_boxes, results):
    rng = np.random.default_rng(0)
    counts = np.bincount(results["image"], minlength=3)
    writer = RelationWriter(".", distributed=False)
    frames = []
    for row, image_id in enumerate(results["image_ids"].tolist()):
        part = results["image"] == row
        found = Instances((64, 96), pred_boxes=Boxes(torch.from_numpy(results["boxes"][part])))
        found.scores = torch.from_numpy(results["scores"][part])
        found.pred_classes = torch.from_numpy(results["labels"][part].astype(np.int64))
        found.proposal_index = torch.from_numpy(rng.integers(0, 4, counts[row]))
        found.next_relation = torch.from_numpy(rng.random((counts[row], 4)).astype(np.float16).astype(np.float32))
        writer.process([{"image_id": image_id}], [{"instances": found}])
        frames.append(found)
    writer.evaluate()
    link_boxes("detections.npz --dataset three_frames --linker BLR --output linked".split())
    in_order_of_the_dataset = BLR().link(frames[::-1])[::-1]
    expected = np.concatenate([one.scores.numpy() for one in in_order_of_the_dataset])
    with np.load("linked/detections.npz") as linked:
        np.testing.assert_allclose(linked["scores"], expected, rtol=1e-6)


def test_relations_of_other_detections_are_refused(link_boxes, results):
    none = np.zeros(3, np.int64)
    np.savez(
        "relations.npz",
        image_ids=results["image_ids"],
        count=none,
        proposal_index=np.zeros(0, np.int32),
        next_relation=np.zeros((0, 4), np.float16),
    )
    with pytest.raises(UserError, match="not of one evaluation"):
        link_boxes("detections.npz --dataset three_frames --linker BLR".split())
