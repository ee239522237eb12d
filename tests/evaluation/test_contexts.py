"""TEST.CONTEXT in StreamingModel and VideoTrainer.test. That it holds for every aggregator is contract 9."""

import json

import cv2
import numpy as np
import pytest
import torch

from helpers.loaders import forget
from helpers.models import DOOR, LSTS_KEYS, assert_same_detections, build_detector, make_video, tiny_cfg
from helpers.streams import foreign_clips, loader_clips, lone_clips
from vod2 import StreamingModel, VideoTrainer
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog, build_model
from vod2.errors import UserError
from vod2.temporal import GlobalSample, Keyframes, RollingGlobal, ScheduleUnion, SlidingWindow

RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}
MEGA = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator", "MODEL.MEGA.MEMORY": 2}
MST = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MSTFrames", "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator"}
MST |= {"MODEL.ALIGNER.NAME": "DAlign", "MODEL.ALIGNER.WIDTH": 4}
FGFA = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator", "MODEL.FLOWNET.WIDTH": 0.0625}
FGFA |= {"MODEL.FGFA.EMBEDDING_DIMS": (8, 8, 16)}
LSTS = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"} | LSTS_KEYS
DFF = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator", "MODEL.FLOWNET.WIDTH": 0.0625}
DFF |= {"VIDEO.TEST_SCHEDULE.INTERVAL": 3}
METHODS = {
    "sliding": (RDN, SlidingWindow(1)),
    "repeat": (FGFA, SlidingWindow(2, edge="repeat")),
    "global": (RDN, GlobalSample(3)),
    "carried": (MEGA, ScheduleUnion([SlidingWindow(1, edge="repeat"), RollingGlobal(2)])),
    "entering": (MST, SlidingWindow(1)),
    "keyframes": (DFF, Keyframes(3)),
    "memory": (LSTS, Keyframes(3)),
}


def without(video: list[torch.Tensor], t: int, seed: int) -> list[torch.Tensor]:
    """Other frames than those of `video`, except frame t."""
    return [video[t] if index == t else one for index, one in enumerate(make_video(len(video), seed=seed))]


def detect(model: StreamingModel, clips, t: int):
    return [model([clip])[0]["instances"] for clip in clips][t]


@pytest.mark.parametrize("name", METHODS)
def test_in_a_foreign_context_other_own_frames_change_nothing_and_foreign_ones_do(name):
    keys, schedule = METHODS[name]
    model = StreamingModel(build_detector(keys), schedule, "foreign")
    own, other = make_video(6, seed=1), make_video(6, seed=2)
    for t in (2, 5):
        found = detect(model, foreign_clips(own, other, schedule), t)
        assert_same_detections(detect(model, foreign_clips(without(own, t, 3), other, schedule), t), found)
        # Of the other video's frames its frame t is the only one that frame t does not look at.
        among = detect(model, foreign_clips(own, without(other, t, 4), schedule), t)
        with pytest.raises(AssertionError):
            assert_same_detections(among, found, 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_of_a_foreign_stream_is_that_of_the_window(name):
    keys, schedule = METHODS[name]
    model = StreamingModel(build_detector(keys), schedule, "foreign")
    for clip in foreign_clips(make_video(6, seed=1), make_video(6, seed=2), schedule):
        model([clip])
        t = clip["frame_index"]
        window = {support.index for support in schedule.window(t, 6, "video")} | {t}
        assert {index for index in range(6) if index in model.memory} == window


@pytest.mark.parametrize("context", ["own", "none", "foreign"])
def test_clips_of_another_context_are_refused(context):
    schedule, video = SlidingWindow(1), make_video(2)
    model = StreamingModel(build_detector(RDN), schedule, context)
    clips = loader_clips(video, schedule) if context == "foreign" else foreign_clips(video, video, schedule)
    with pytest.raises(ValueError, match=f"context of the model is '{context}'.*the same TEST.CONTEXT"):
        model(list(clips))


def test_an_unknown_context_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="'alien', expected one of own, none, foreign"):
        StreamingModel(build_detector(RDN), SlidingWindow(1), "alien")


def test_without_context_frames_may_come_in_any_order():
    model, video = StreamingModel(build_detector(LSTS), Keyframes(3), "none"), make_video(4)
    clips = list(lone_clips(video))
    forward = [model([clip])[0]["instances"] for clip in clips]
    backward = [model([clip])[0]["instances"] for clip in clips[::-1]][::-1]
    for found, expected in zip(backward, forward, strict=True):
        assert_same_detections(found, expected)


@pytest.fixture
def dataset(tmp_path):
    """Three videos of noise, of different sizes and lengths."""
    records = []
    for video, (length, height, width) in {"a": (4, 64, 96), "b": (3, 80, 80), "c": (1, 48, 96)}.items():
        for t in range(length):
            path = str(tmp_path / f"{video}{t}.png")
            image = make_video(1, seed=t + 10 * height, size=(height, width))[0]
            cv2.imwrite(path, np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            note = {"bbox": [8, 8, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
            record = {"file_name": path, "image_id": f"{video}/{t}", "height": height, "width": width}
            record |= {"annotations": [note | {"track_id": 0}]}
            records.append(record | {"video_id": video, "frame_index": t, "video_length": length})
    DatasetCatalog.register("contexts", lambda: records)
    MetadataCatalog.get("contexts").set(thing_classes=list("abcde"), evaluator_type="vid")
    yield "contexts"
    forget("contexts")


def evaluate(folder, keys: dict, context: str):
    keys = keys | {"DATASETS.TEST": ("contexts",), "DATALOADER.NUM_WORKERS": 0, "TEST.COCO_AP": False}
    cfg = tiny_cfg(keys | {"OUTPUT_DIR": str(folder), "TEST.CONTEXT": context})
    return VideoTrainer.test(cfg, build_detector(keys))


@pytest.mark.parametrize("name", METHODS)
def test_a_foreign_context_of_another_size_and_length_works(dataset, tmp_path, name):
    keys, schedule = METHODS[name]
    parts = schedule.schedules if isinstance(schedule, ScheduleUnion) else [schedule]
    keys = keys | {"VIDEO.TEST_SCHEDULE.NAME": "+".join(type(part).__name__ for part in parts)}
    read = {key for part in parts for key in part.reads.values()}
    keys |= {f"VIDEO.TEST_SCHEDULE.{key}": value for key, value in {"RADIUS": 1, "COUNT": 3}.items() if key in read}
    assert "AP50" in evaluate(tmp_path, keys, "foreign")["vid"]


def test_a_key_that_the_window_does_not_read_is_told_before_the_training(dataset, tmp_path):
    keys = {"DATASETS.TRAIN": ("contexts",), "DATASETS.TEST": ("contexts",), "OUTPUT_DIR": str(tmp_path)}
    with pytest.raises(UserError, match="VIDEO.TEST_SCHEDULE.COUNT is 3, but"):
        VideoTrainer(tiny_cfg(keys | {"VIDEO.TEST_SCHEDULE.COUNT": 3}))


def test_an_image_detector_is_evaluated_whatever_the_window_is(dataset, tmp_path):
    keys = DOOR | {"VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow", "VIDEO.TEST_SCHEDULE.RADIUS": 1}
    keys |= {"DATASETS.TEST": ("contexts",), "DATALOADER.NUM_WORKERS": 0, "TEST.COCO_AP": False}
    cfg = tiny_cfg(keys | {"OUTPUT_DIR": str(tmp_path)})
    assert "AP50" in VideoTrainer.test(cfg, build_model(cfg))["vid"]


def test_every_context_has_a_folder_and_a_results_file_that_names_it(dataset, tmp_path):
    keys = RDN | {"VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow", "VIDEO.TEST_SCHEDULE.RADIUS": 1}
    detections = {}
    for context, folder in {"own": "contexts", "none": "contexts_none", "foreign": "contexts_foreign"}.items():
        results = evaluate(tmp_path, keys, context)
        written = json.loads((tmp_path / "inference" / folder / "results.json").read_text())
        assert written["context"] == context and written["vid"]["AP50"] == pytest.approx(results["vid"]["AP50"])
        detections[context] = np.load(tmp_path / "inference" / folder / "detections.npz")["scores"]
    assert sorted(path.name for path in (tmp_path / "inference").iterdir()) == [
        "contexts",
        "contexts_foreign",
        "contexts_none",
    ]
    assert not np.array_equal(detections["own"], detections["none"])
    assert not np.array_equal(detections["own"], detections["foreign"])


def test_a_single_frame_detector_is_the_same_in_all_contexts(dataset, tmp_path):
    for context in ("own", "none", "foreign"):
        evaluate(tmp_path, {}, context)
    own, none, foreign = (
        np.load(tmp_path / "inference" / folder / "detections.npz")["scores"]
        for folder in ("contexts", "contexts_none", "contexts_foreign")
    )
    assert len(own) > 0 and np.array_equal(own, none) and np.array_equal(own, foreign)


def test_outside_of_its_own_context_a_linker_gets_every_frame_alone(dataset, tmp_path):
    """So a detector that looks at no other frame is the same with "none" and "foreign", and not with "own"."""
    scores = {}
    for context in ("own", "none", "foreign"):
        evaluate(tmp_path / context, {"MODEL.VIDEO.LINKER.NAME": "TubeletLinking"}, context)
        (file,) = tmp_path.glob(f"{context}/inference/*/detections.npz")
        scores[context] = np.load(file)["scores"]
    assert np.array_equal(scores["none"], scores["foreign"])
    assert not np.array_equal(scores["own"], scores["none"])


def test_relations_are_not_written_outside_of_the_own_context(dataset, tmp_path):
    keys = RDN | {"VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow", "MODEL.VIDEO.KEEP_RELATIONS": True}
    for context in ("own", "foreign"):
        evaluate(tmp_path, keys, context)
    assert (tmp_path / "inference" / "contexts" / "relations.npz").is_file()
    assert not (tmp_path / "inference" / "contexts_foreign" / "relations.npz").exists()
