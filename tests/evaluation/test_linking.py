"""Linking between the detector and the evaluators."""

import cv2
import numpy as np
import torch

from helpers.linking import detections
from helpers.models import build_detector, tiny_cfg
from vod2.d2 import BoxMode, DatasetCatalog, DatasetEvaluator, MetadataCatalog
from vod2.engine import VideoTrainer
from vod2.evaluation import LinkingEvaluator
from vod2.modeling import SeqNMS

HERE = (0.0, 0.0, 10.0, 10.0)


class Recorder(DatasetEvaluator):
    """Keeps what it is given."""

    def reset(self):
        self.seen, self.tracks = [], []

    def process(self, inputs, outputs):
        for given, output in zip(inputs, outputs, strict=True):
            self.tracks.append(output["instances"].has("track_ids"))
            self.seen.append((given["image_id"], output["instances"].scores.tolist(), sorted(given)))

    def evaluate(self):
        return {"frames": len(self.seen)}


def feed(evaluator, frames):
    for image_id, video_id, previous, score in frames:
        given = {"image_id": image_id, "video_id": video_id, "frame_index": 0, "previous_index": previous}
        given |= {"image": torch.zeros(3, 2, 2), "support": []}
        evaluator.process([given], [{"instances": detections([(HERE, score)])}])


def test_every_video_is_linked_by_itself_and_handed_on_in_order():
    """By hand: means .5 of video a, .25 of b, .75 of the second run of b."""
    recorder = Recorder()
    evaluator = LinkingEvaluator(SeqNMS(), recorder)
    evaluator.reset()
    feed(evaluator, [("a0", "a", None, 0.75), ("a1", "a", 0, 0.25)])
    assert recorder.seen == []
    feed(evaluator, [("b0", "b", None, 0.25), ("b0 again", "b", None, 0.75)])
    assert evaluator.evaluate() == {"frames": 4}
    assert [(name, scores) for name, scores, _ in recorder.seen] == [
        ("a0", [0.5]),
        ("a1", [0.5]),
        ("b0", [0.25]),
        ("b0 again", [0.75]),
    ]
    assert all("image" not in keys and "support" not in keys for _, _, keys in recorder.seen)


def test_frames_that_are_alone_are_not_linked():
    recorder = Recorder()
    evaluator = LinkingEvaluator(SeqNMS(), recorder, alone=True)
    evaluator.reset()
    feed(evaluator, [("a0", "a", None, 0.75), ("a1", "a", 0, 0.25)])
    assert evaluator.evaluate() == {"frames": 2}
    assert [(name, scores) for name, scores, _ in recorder.seen] == [("a0", [0.75]), ("a1", [0.25])]
    # The surest box of each would be number 0, and look like a track.
    assert recorder.tracks == [False, False]


def test_resetting_forgets_the_video_that_was_running():
    recorder = Recorder()
    evaluator = LinkingEvaluator(SeqNMS(), recorder)
    evaluator.reset()
    feed(evaluator, [("a0", "a", None, 0.75)])
    evaluator.reset()
    assert evaluator.evaluate() == {"frames": 0}


def test_the_trainers_evaluation_links_when_the_configuration_names_a_linker(tmp_path, monkeypatch):
    """The evaluators, those of the configuration and those given, see boxes with tracks."""
    records = []
    for t in range(3):
        path = str(tmp_path / f"{t}.png")
        cv2.imwrite(path, np.random.default_rng(t).integers(0, 255, (64, 96, 3), dtype=np.uint8))
        note = {"bbox": [8, 8, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0, "track_id": 0}
        record = {"file_name": path, "image_id": str(t), "height": 64, "width": 96, "annotations": [note]}
        records.append(record | {"video_id": "v", "frame_index": t, "video_length": 3})
    DatasetCatalog.register("linked_test", lambda: records)
    MetadataCatalog.get("linked_test").set(thing_classes=list("abcde"), evaluator_type="vid")
    tracked = []
    monkeypatch.setattr(
        Recorder, "process", lambda self, inputs, outputs: tracked.append(outputs[0]["instances"].has("track_ids"))
    )
    monkeypatch.setattr(Recorder, "evaluate", lambda self: {"task": {"metric": 1.0}})
    keys = {"MODEL.VIDEO.LINKER.NAME": "SeqNMS", "DATASETS.TEST": ("linked_test",), "DATALOADER.NUM_WORKERS": 0}
    keys |= {"OUTPUT_DIR": str(tmp_path / "out"), "TEST.COCO_AP": False}
    try:
        cfg = tiny_cfg(keys)
        assert "vid" in VideoTrainer.test(cfg, build_detector(keys))
        assert tracked == []
        VideoTrainer.test(cfg, build_detector(keys), [Recorder()])
        assert tracked == [True] * 3
    finally:
        DatasetCatalog.remove("linked_test")
        MetadataCatalog.remove("linked_test")
