"""What a worker makes of a video, and that segments of it give the same."""

import json
import os
import sys

import cv2
import pytest

from helpers.archives import FakeWorkers, quick_cfg, write_archive
from helpers.models import tiny_cfg
from helpers.videos import moving_frames, write_video
from vod2 import VideoPredictor
from vod2.archive import (
    ArchiveDetector,
    Coordinator,
    Cutting,
    Layout,
    Manifest,
    Reach,
    Settings,
    carries_state,
    reach_of,
    require_format,
    signature_of,
    video_id,
)
from vod2.archive.detector import frame_times
from vod2.archive.tasks import Broken, Damaged, Done, Failed, PartDone, Segment, SegmentTask, VideoTask
from vod2.checkpoint.public_file import sha256
from vod2.errors import UserError
from vod2.video import VideoReader

NAMES = ("circle", "square", "star", "cross", "ring")


def make_detector(folder, cfg, **options):
    layout = Layout(folder, "jsonl", "run")
    layout.temporary.mkdir(parents=True, exist_ok=True)
    return ArchiveDetector(Settings(cfg, layout, NAMES, **options), "cpu")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    return quick_cfg(tmp_path_factory.mktemp("weights"), "RDN", RADIUS=2)


@pytest.fixture
def detector(tmp_path, cfg):
    return make_detector(tmp_path / "out", cfg, threshold=0.1)


def lines_of(detector, path):
    result = detector.settings.layout.result(video_id(str(path)))
    return [json.loads(line) for line in result.read_text().splitlines()]


def run(detector, path):
    return detector.run(VideoTask(video_id(str(path)), str(path)))


def test_a_result_has_a_line_for_each_frame_with_what_the_predictor_finds(tmp_path, cfg, detector):
    path = write_video(tmp_path / "a.mp4", moving_frames(5))
    done = run(detector, path)
    lines = lines_of(detector, path)
    assert isinstance(done, Done) and (done.frames, done.note) == (5, "") and done.seconds > 0
    assert done.signature == signature_of(str(path))
    assert done.sha256 == sha256(str(detector.settings.layout.result(video_id(str(path)))))
    assert [line["time"] for line in lines] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    count = 0
    for line, found in zip(lines, VideoPredictor(cfg).stream(VideoReader(path)), strict=True):
        instances = found.output["instances"]
        instances = instances[instances.scores >= 0.1]
        assert line["boxes"] == instances.pred_boxes.tensor.tolist() and line["scores"] == instances.scores.tolist()
        assert line["class_names"] == [NAMES[label] for label in line["labels"]] and line["track_ids"] is None
        assert (line["video"], line["frame_index"]) == (str(path), found.index)
        count += len(instances)
    assert count > 0


def test_times_are_those_of_the_file_where_it_tells_them(tmp_path):
    path = write_video(tmp_path / "a.mkv", moving_frames(4), times=[0, 1, 5, 6])
    assert frame_times(str(path)) == pytest.approx([0, 0.04, 0.2, 0.24], abs=1e-3)
    (tmp_path / "folder").mkdir()
    assert frame_times(str(tmp_path / "folder")) is None


def test_broken_videos_are_told_in_a_sentence_and_leave_no_file(tmp_path, detector):
    folder = write_archive(tmp_path / "in", 1, 5)
    broken = [folder / name for name in ("empty.mp4", "text.mp4", "half.mp4", "sizes", "torn")]
    for path in broken:
        reply = run(detector, path)
        assert isinstance(reply, Broken) and path.name in reply.reason and "\n" not in reply.reason, reply
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_list_of_other_files_is_no_video_unless_it_is_asked_for(tmp_path, cfg, detector):
    write_video(tmp_path / "secret.mp4", moving_frames(3))
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    reply = run(detector, path)
    assert isinstance(reply, Broken) and "expected one of MP4" in reply.reason
    trusting = make_detector(tmp_path / "trusting", cfg, any_container=True)
    assert isinstance(run(trusting, path), Done)


def test_containers_whose_suffixes_are_searched_for_are_opened(tmp_path, detector):
    paths = [write_video(tmp_path / "a.mxf", moving_frames(3), codec="mpeg2video"), tmp_path / "a.mjpeg"]
    # Motion JPEG is one image after the other.
    paths[1].write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in moving_frames(3)))
    for path in paths:
        reply = run(detector, path)
        assert isinstance(reply, Done) and reply.frames == 3, reply


def test_a_folder_of_images_with_a_torn_one_is_done_with_a_note(tmp_path, detector):
    for number, frame in enumerate(moving_frames(4)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    (tmp_path / "1.png").write_text("torn")
    done = run(detector, tmp_path)
    assert isinstance(done, Done) and done.frames == 3 and "1.png" in done.note
    assert [(line["frame_index"], line["time"]) for line in lines_of(detector, tmp_path)] == [
        (0, None),
        (2, None),
        (3, None),
    ]


def test_what_is_not_the_videos_fault_may_pass(tmp_path, detector, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    monkeypatch.setattr(detector.predictor, "stream", lambda *_: (_ for _ in ()).throw(MemoryError("no\nmore")))
    reply = run(detector, path)
    assert isinstance(reply, Failed) and reply.reason == "MemoryError: no more"


def test_a_video_that_changes_while_it_is_read_is_tried_again(tmp_path, detector, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    stream = detector.predictor.stream

    def changed(*arguments):
        os.utime(path, ns=(1, 1))
        return stream(*arguments)

    monkeypatch.setattr(detector.predictor, "stream", changed)
    assert "was changed while it was read" in run(detector, path).reason


def test_a_worker_of_an_earlier_run_can_no_longer_write(tmp_path, detector):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    detector.settings.layout.temporary.rmdir()
    assert isinstance(run(detector, path), Failed)
    assert not detector.settings.layout.result(video_id(str(path))).exists()


def detect_archive(folder, cfg, path, cutting=None, **options):
    """The lines of a video that a coordinator has detected with one worker in this process, and its tasks."""
    if cutting is not None:
        options["segment_frames"] = cutting.frames
    detector = make_detector(folder, cfg, **options)
    manifest = Manifest(folder / "manifest.sqlite")
    manifest.add([(str(path), signature_of(str(path)))])
    workers = FakeWorkers(detector.run, 1)
    Coordinator(manifest, workers, detector.settings.layout, cutting).run()
    assert manifest.counts().done == 1
    manifest.close()
    return lines_of(detector, path), workers.tasks


@pytest.mark.parametrize(
    "name, keys",
    [("RDN", {"RADIUS": 2}), ("FGFA", {"RADIUS": 2}), ("MST", {"RADIUS": 1}), ("DFF", {"INTERVAL": 4})],
)
def test_segments_give_what_the_whole_video_gives(tmp_path, name, keys):
    cfg = quick_cfg(tmp_path, name, **keys)
    path = write_video(tmp_path / "long.mp4", moving_frames(24))
    predictor = VideoPredictor(cfg)
    assert not carries_state(predictor)
    reach = reach_of(predictor.schedule, predictor.model)
    cutting = Cutting(8 + sum(reach), sum(reach), reach, predictor.schedule.period)
    whole, _ = detect_archive(tmp_path / "whole", cfg, path)
    cut, tasks = detect_archive(tmp_path / "cut", cfg, path, cutting)
    assert len([task for task in tasks if isinstance(task, SegmentTask)]) >= 2
    assert sum(len(line["boxes"]) for line in whole) > 24
    assert cut == whole
    assert not (tmp_path / "cut" / "parts" / video_id(str(path))).exists()


def test_an_overlap_that_is_too_small_would_give_something_else(tmp_path, cfg):
    """The comparison above can fail."""
    path = write_video(tmp_path / "long.mp4", moving_frames(16))
    whole, _ = detect_archive(tmp_path / "whole", cfg, path)
    cut, _ = detect_archive(tmp_path / "cut", cfg, path, Cutting(8, 2, Reach(1, 1)))
    assert cut != whole


def test_supports_that_take_from_others_look_further_back(tmp_path):
    """By hand: radius 1 back, and from there another 1 + 1 + 1."""
    predictor = VideoPredictor(quick_cfg(tmp_path, "MST", RADIUS=1))
    assert reach_of(predictor.schedule) == (1, 1)
    assert reach_of(predictor.schedule, predictor.model) == (4, 1)


def test_a_model_that_carries_something_is_noticed(tmp_path):
    assert carries_state(VideoPredictor(quick_cfg(tmp_path, "LSTS", INTERVAL=3)))
    assert not carries_state(VideoPredictor(tiny_cfg()))


def test_tracks_go_on_from_segment_to_segment(tmp_path, cfg):
    """A video that stands still: every object is there in every frame, in all segments."""
    path = write_video(tmp_path / "still.mp4", [moving_frames(1)[0]] * 24)
    cutting = Cutting(12, 8, reach_of(VideoPredictor(cfg).schedule))
    lines, tasks = detect_archive(tmp_path / "out", cfg, path, cutting, threshold=0.2, link=6)
    assert len([task for task in tasks if isinstance(task, SegmentTask)]) >= 3
    tracks = [set(line["track_ids"]) for line in lines]
    assert tracks[0] and len(tracks) == 24
    assert len(set.intersection(*tracks)) >= 1
    whole, _ = detect_archive(tmp_path / "whole", cfg, path, threshold=0.2, link=6)
    assert len(set().union(*tracks)) == len(set().union(*(line["track_ids"] for line in whole)))


def test_a_part_that_is_there_is_not_made_again(tmp_path, detector, monkeypatch):
    path = str(write_video(tmp_path / "a.mp4", moving_frames(8)))
    task = SegmentTask(video_id(path), path, signature_of(path), Segment(0, 6, 0, 4))
    assert isinstance(detector.run(task), PartDone)
    part = detector.settings.layout.part(task.video, task.signature, task.segment)
    assert [json.loads(line)["frame_index"] for line in part.read_text().splitlines()] == [0, 1, 2, 3]
    monkeypatch.setattr(detector.predictor, "stream", None)
    assert isinstance(detector.run(task), PartDone)


def test_a_segment_of_a_damaged_video_says_so(tmp_path, detector):
    for number, frame in enumerate(moving_frames(8)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    (tmp_path / "3.png").write_text("torn")
    path = str(tmp_path)
    assert isinstance(detector.run(SegmentTask("id", path, signature_of(path), Segment(0, 6, 0, 4))), Damaged)
    assert isinstance(detector.run(SegmentTask("id", path, signature_of(path), Segment(4, 8, 4, 8))), PartDone)


def test_parquet_has_the_same_frames(tmp_path, cfg):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    detector = make_detector(tmp_path / "out", cfg, threshold=0.1)
    run(detector, path)
    layout = detector.settings.layout._replace(suffix="parquet")
    detector.settings = detector.settings._replace(layout=layout)
    assert isinstance(run(detector, path), Done)
    rows = parquet.read_table(layout.result(video_id(str(path)))).to_pylist()
    detector.settings = detector.settings._replace(layout=layout._replace(suffix="jsonl"))
    assert rows == lines_of(detector, path)


def test_parquet_without_pyarrow_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    require_format("jsonl")
    with pytest.raises(UserError, match=r"pip install 'vod2\[parquet\]', or give --format jsonl"):
        require_format("parquet")
