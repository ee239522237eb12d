"""tools/demo.py with a predictor that needs no model."""

import itertools
import json
import re
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from helpers import damage
from helpers.models import tiny_cfg
from helpers.videos import write_browser_recording, write_numbered_video
from vod2 import VideoPredictor
from vod2.checkpoint.files import write_checkpoint
from vod2.commands import detect
from vod2.d2 import Boxes, Instances, build_model
from vod2.engine.cli import run
from vod2.engine.random_weights import draw_weights
from vod2.engine.streams import DetectedFrame
from vod2.video import VideoReader, VideoWriter

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


class FakePredictor:
    """Finds in frame i a sure object of class 1 at (i, 0, 20 + i, 20) and an unsure one."""

    made: list["FakePredictor"] = []
    has_tracks = False
    gaps = 0

    def __init__(self, cfg, lookahead=None, *, fused=False):
        assert cfg.MODEL.DEVICE == "cpu" or torch.cuda.is_available()
        self.lookahead = lookahead
        self.made.append(self)

    def stream(self, frames):
        for index, image in enumerate(frames):
            if image is None:
                self.gaps += 1
                continue
            boxes = torch.tensor([[index, 0, 20 + index, 20], [0, 0, 9, 9]], dtype=torch.float32)
            found = Instances(image.shape[:2], pred_boxes=Boxes(boxes))
            found.scores, found.pred_classes = torch.tensor([0.75, 0.25]), torch.tensor([1, 0])
            if self.has_tracks:
                found.track_ids = torch.tensor([7, -1])
            yield DetectedFrame(index, image, {"instances": found})


class FakeCapture:
    """cv2.VideoCapture of a camera: gray frames, failures where `script` has False, and in the end a Ctrl-C."""

    script = [True, True, False, True]

    def __init__(self, source):
        assert source == 0
        self.left = list(self.script)

    def get(self, key):
        return 1000.0 if key == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        if not self.left:
            raise KeyboardInterrupt
        return (True, np.full((48, 64, 3), 90, np.uint8)) if self.left.pop(0) else (False, None)

    def release(self):
        pass


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.setattr(detect, "VideoPredictor", FakePredictor)
    monkeypatch.setattr(FakePredictor, "made", [])
    return detect


@pytest.fixture
def arguments(tmp_path):
    """The words of a command line that works: {option: value}, weights last."""
    (tmp_path / "model.yaml").write_text("VERSION: 2\n")
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with VideoWriter(tmp_path / "in.mp4", 10, (64, 48)) as video:
        for _ in range(3):
            video.write(np.full((48, 64, 3), 40, np.uint8))
    return {
        "--config-file": str(tmp_path / "model.yaml"),
        "--video-input": str(tmp_path / "in.mp4"),
        "--output": str(tmp_path / "out.mp4"),
        "--opts": str(tmp_path / "weights.pth"),
    }


def call(demo, monkeypatch, arguments, *more):
    *options, (_, weights) = arguments.items()
    words = [word for option, value in options for word in (option, *([value] if isinstance(value, str) else value))]
    words += [*more, "--opts", "MODEL.WEIGHTS", weights]
    monkeypatch.setattr(sys, "argv", ["demo.py", *words])
    run(demo.main)


def test_a_video_becomes_a_drawn_video_and_json(demo, monkeypatch, arguments, tmp_path):
    call(demo, monkeypatch, arguments, "--json", str(tmp_path / "out.json"))
    drawn = VideoReader(arguments["--output"])
    assert (len(list(drawn)), drawn.size, drawn.fps) == (3, (64, 48), 10)
    assert next(iter(drawn)).std() > 10
    result = json.loads((tmp_path / "out.json").read_text())
    frames = result.pop("frames")
    size = {"width": 64, "height": 48}
    assert result == {"video": arguments["--video-input"], "fps": 10.0, **size, "class_names": []}
    assert [frame["index"] for frame in frames] == [0, 1, 2]
    assert [frame["time"] for frame in frames] == [0, 0.1, 0.2]
    assert frames[2]["detections"] == [{"box": [2, 0, 22, 20], "class": "class 1", "label": 1, "score": 0.75}]


def test_classes_are_called_as_the_weights_training_called_them_unless_a_file_says_otherwise(
    demo, monkeypatch, arguments, tmp_path, capsys
):
    (tmp_path / "model.yaml").write_text("MODEL: {ROI_HEADS: {NUM_CLASSES: 2}}\n")
    weights = write_checkpoint(tmp_path, "elves", {"a": torch.zeros(1)}, {}, {"classes": ["elf", "gnome"]})
    arguments["--opts"] = str(weights)
    written = ("--json", str(tmp_path / "out.json"))
    call(demo, monkeypatch, arguments, *written)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["class_names"] == ["elf", "gnome"] and result["frames"][0]["detections"][0]["class"] == "gnome"
    (tmp_path / "names.txt").write_text("troll\nogre\n")
    call(demo, monkeypatch, arguments, *written, "--class-names", str(tmp_path / "names.txt"))
    assert json.loads((tmp_path / "out.json").read_text())["class_names"] == ["troll", "ogre"]
    (tmp_path / "names.txt").write_text("troll\n")
    with pytest.raises(SystemExit):
        call(demo, monkeypatch, arguments, *written, "--class-names", str(tmp_path / "names.txt"))
    assert "names.txt has 1 class names (troll), but MODEL.ROI_HEADS.NUM_CLASSES is 2" in capsys.readouterr().err


def test_the_threshold_decides_what_is_kept(demo, monkeypatch, arguments, tmp_path):
    call(demo, monkeypatch, arguments, "--json", str(tmp_path / "out.json"), "--confidence-threshold", "0.2")
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert [len(frame["detections"]) for frame in frames] == [2, 2, 2]


def test_every_format_of_text_tells_the_same(demo, monkeypatch, arguments, tmp_path):
    monkeypatch.setattr(FakePredictor, "has_tracks", True)
    del arguments["--output"]
    for kind in ("json", "jsonl", "mot", "coco", "cvat", "label-studio"):
        arguments = {f"--{kind}": str(tmp_path / f"out.{kind}")} | arguments
    call(demo, monkeypatch, arguments)
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == frames and frames[1]["detections"][0]["track"] == 7
    assert (tmp_path / "out.mot").read_text().splitlines() == [
        f"{i + 1},7,{i}.00,0.00,20.00,20.00,0.750000,2,-1,-1" for i in range(3)
    ]
    assert json.loads((tmp_path / "out.coco").read_text()) == [
        {"image_id": i, "category_id": 1, "bbox": [i, 0, 20, 20], "score": 0.75, "time": i / 10, "track_id": 7}
        for i in range(3)
    ]
    xml = (tmp_path / "out.cvat").read_text()
    assert xml.count("<track ") == 1 and all(f'xtl="{i}.00" ytl="0.00" xbr="{20 + i}.00"' in xml for i in range(3))
    ((region,),) = [
        task["predictions"][0]["result"] for task in json.loads((tmp_path / "out.label-studio").read_text())
    ]
    assert [item["frame"] for item in region["value"]["sequence"]] == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_drawn_video_lasts_as_long_as_its_input_and_every_format_has_times(
    demo, monkeypatch, arguments, tmp_path, suffix
):
    milliseconds = [0, 36, 72, 102, 140, 171, 2500, 2533, 2569, 2600, 2637, 2670]  # with a pause
    times = write_browser_recording(tmp_path / "talk.webm", milliseconds)
    arguments |= {"--video-input": str(tmp_path / "talk.webm"), "--output": str(tmp_path / f"out{suffix}")}
    words = [word for kind in ("json", "jsonl", "coco") for word in (f"--{kind}", str(tmp_path / f"out.{kind}"))]
    call(demo, monkeypatch, arguments, *words)
    with av.open(arguments["--output"]) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=0.001)
        assert container.duration / 1e6 == pytest.approx(times[-1], abs=0.3)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["fps"] == pytest.approx(11 / 2.67, abs=0.01)
    assert [frame["time"] for frame in result["frames"]] == pytest.approx(times)
    assert [json.loads(line)["time"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == times
    assert [one["time"] for one in json.loads((tmp_path / "out.coco").read_text())] == times


@pytest.mark.parametrize("how", ["name", "relative", "symbolic", "hard", "json", "partial", "weights"])
def test_no_output_is_written_over_an_input(demo, monkeypatch, arguments, capsys, tmp_path, how):
    source = Path(arguments["--video-input"])
    before = source.read_bytes()
    link = tmp_path / "link.mp4"
    words: list[str] = []
    if how == "name":
        arguments["--output"] = str(tmp_path / "{name}.mp4")
    elif how == "relative":
        monkeypatch.chdir(tmp_path)
        arguments["--output"] = "./in.mp4"
    elif how == "symbolic":
        link.symlink_to(source)
        arguments["--output"] = str(link)
    elif how == "hard":
        link.hardlink_to(source)
        arguments["--output"] = str(link)
    elif how == "json":
        words = ["--json", str(source)]
    elif how == "partial":  # what an interruption would leave
        source.rename(tmp_path / "out.partial.mp4")
        arguments["--video-input"] = str(tmp_path / "out.partial.mp4")
    else:
        words = ["--coco", arguments["--opts"]]
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments, *words)
    assert stop.value.code == 2 and "which this command reads" in capsys.readouterr().err
    assert Path(arguments["--video-input"]).read_bytes() == before


def test_several_videos_and_folders_have_files_of_their_own(demo, monkeypatch, arguments, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.zeros((32, 40, 3), np.uint8))
    arguments["--video-input"] = [arguments["--video-input"], str(tmp_path / "images")]
    arguments["--output"] = str(tmp_path / "drawn" / "{name}.mp4")
    call(demo, monkeypatch, arguments, "--jsonl", str(tmp_path / "text" / "{name}.jsonl"))
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["images.mp4", "in.mp4"]
    assert [len(list(VideoReader(tmp_path / "drawn" / f"{name}.mp4"))) for name in ("in", "images")] == [3, 2]
    assert len((tmp_path / "text" / "images.jsonl").read_text().splitlines()) == 2
    assert [one.lookahead for one in FakePredictor.made] == [None]


def test_two_detectors_are_drawn_side_by_side_under_their_titles(demo, monkeypatch, arguments, tmp_path):
    (tmp_path / "single.yaml").write_text("VERSION: 2\n")
    compare = ("--compare", str(tmp_path / "single.yaml"), arguments["--opts"])
    call(demo, monkeypatch, arguments, *compare, "--lookahead", "0", "--json", str(tmp_path / "out.json"))
    drawn = VideoReader(arguments["--output"])
    assert drawn.size == (128, 48 + 16) and len(list(drawn)) == 3
    assert len(json.loads((tmp_path / "out.json").read_text())["frames"]) == 3
    assert [one.lookahead for one in FakePredictor.made] == [0, None]


def test_several_detectors_stand_in_their_order_with_the_models_own_on_the_right(
    demo, monkeypatch, arguments, tmp_path
):
    compare = []
    for name in ("first", "second", "model"):  # the last has the name of the detector, so both are told apart
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.yaml").write_text("VERSION: 2\n")
        torch.save({"model": {}}, tmp_path / name / "weights.pth")
        compare += ["--compare", str(tmp_path / name / f"{name}.yaml"), str(tmp_path / name / "weights.pth")]
    titles, joined = [], demo.side_by_side
    monkeypatch.setattr(demo, "side_by_side", lambda images, names: titles.append(names) or joined(images, names))
    call(demo, monkeypatch, arguments, *compare)
    drawn = VideoReader(arguments["--output"])
    assert drawn.size == (4 * 64, 48 + 16) and len(list(drawn)) == 3
    weights = [f"model {tmp_path / 'model' / 'weights.pth'}", f"model {arguments['--opts']}"]
    assert titles == [["first", "second", *weights]] * 3


def test_a_camera_is_watched_until_it_is_interrupted(demo, monkeypatch, arguments, tmp_path, capsys):
    """A lost frame has a number, and the files are whole."""
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    del arguments["--video-input"]
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments, "--webcam", "0", "--jsonl", str(tmp_path / "out.jsonl"))
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err
    assert len(list(VideoReader(arguments["--output"]))) == 3
    assert [json.loads(line)["index"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1, 3]
    assert FakePredictor.made[0].gaps == 1


def test_a_camera_that_was_too_quick_is_told_with_the_number_of_frames(demo, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    camera = demo.Camera(0)
    assert demo.complaint(camera) == ""
    camera.skipped = 5
    assert demo.complaint(camera).startswith("camera 0: 5 frames came while the detector was busy")


def test_a_damaged_video_is_detected_as_far_as_it_can_be_read(demo, monkeypatch, arguments, capsys, tmp_path):
    """An image in the middle of a folder is broken: a gap, a sentence, and no failure."""
    (tmp_path / "images").mkdir()
    for index in range(4):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.zeros((32, 40, 3), np.uint8))
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    call(demo, monkeypatch, arguments | {"--video-input": str(tmp_path / "images")})
    assert len(list(VideoReader(arguments["--output"]))) == 3 and FakePredictor.made[0].gaps == 1
    assert "2.png" in capsys.readouterr().err


def test_a_camera_that_gives_no_picture_is_a_mistake(demo, monkeypatch, arguments, capsys):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "script", [False])
    del arguments["--video-input"]
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments, "--webcam", "0")
    assert stop.value.code == 2 and "camera 0 gives no picture" in capsys.readouterr().err


def test_an_interrupted_video_leaves_a_playable_file_and_complete_text(demo, monkeypatch, arguments, tmp_path):
    stream = FakePredictor.stream

    def interrupted(self, frames):
        yield from itertools.islice(stream(self, frames), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakePredictor, "stream", interrupted)
    words = [word for kind in ("json", "jsonl", "mot", "coco") for word in (f"--{kind}", str(tmp_path / f"out.{kind}"))]
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments, *words)
    assert stop.value.code == 130
    assert len(list(VideoReader(tmp_path / "out.partial.mp4"))) == 2
    assert [frame["index"] for frame in json.loads((tmp_path / "out.json").read_text())["frames"]] == [0, 1]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "out.mot").read_text().splitlines()) == 2
    assert len(json.loads((tmp_path / "out.coco").read_text())) == 2


def test_the_bar_tells_the_rate_and_the_time_left(demo, monkeypatch, arguments, capsys):
    call(demo, monkeypatch, arguments)
    assert re.search(r"3/3 \[.*<.*frame/s\]", capsys.readouterr().err)


def test_boxes_are_linked_to_tracks(demo, monkeypatch, arguments, tmp_path):
    call(demo, monkeypatch, arguments, "--link", "2", "--mot", str(tmp_path / "out.txt"))
    assert [line.split(",")[:2] for line in (tmp_path / "out.txt").read_text().splitlines()] == [
        ["1", "0"],
        ["2", "0"],
        ["3", "0"],
    ]


def test_the_support_boxes_of_a_detection_are_drawn(demo, monkeypatch, arguments, tmp_path, capsys):
    """With a real, tiny model; where nothing is detected, or the frame does not exist, a sentence says so."""
    keys = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow"}
    cfg = tiny_cfg(keys | {"DATASETS.TEST": ()})
    Path(arguments["--config-file"]).write_text(cfg.dump())
    model = build_model(cfg)
    draw_weights(model)
    torch.save({"model": model.state_dict()}, arguments["--opts"])
    monkeypatch.setattr(demo, "VideoPredictor", VideoPredictor)
    options = ("--confidence-threshold", "0", "--show-relations")
    call(demo, monkeypatch, arguments, *options, "1:32,24")
    picture = cv2.imread(str(tmp_path / "out.relations.png"))
    assert picture.shape[1] == 640
    for wrong, message in (("1:9999,0", "no detection in frame 1"), ("99:0,0", "no frame 99")):
        call(demo, monkeypatch, arguments, *options, wrong)
        captured = capsys.readouterr()
        assert message in captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--video-input", "a.mp4"], "nothing to write"),
        (["--video-input", "a.mp4", "--json", "a.json", "--compare", "b.yaml", "b.pth"], "--compare"),
        (["--video-input", "a.mp4", "--report", "a.html", *2 * ["--compare", "b.yaml", "b.pth"]], "one other detector"),
        (["--video-input", "a.mp4", "--webcam", "0", "--output", "a.mp4"], "not allowed with"),
        (["--output", "a.mp4"], "--video-input --webcam"),
        (["--video-input", "a.mp4", "--output", "b.mp4", "--link", "1"], "at least 2 frames"),
        (["--video-input", "a.mp4", "--output", "b.mp4", "--show-relations", "9"], "expected FRAME:X,Y"),
        (["--video-input", "a.mp4", "--json", "b.json", "--show-relations", "9:1,1"], "needs --output"),
        (["--webcam", "0", "--output", "b.mp4", "--show-relations", "9:1,1"], "one --video-input"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(demo, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        demo.parse_args(["--config-file", "c.yaml", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("second", "message"), [("other/in.mp4", "same name"), ("other.mp4", "put {name} into it")])
def test_inputs_that_would_be_written_over_each_other_are_refused(
    demo, monkeypatch, arguments, capsys, second, message
):
    arguments["--video-input"] = [arguments["--video-input"], second]
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--config-file", "absent.yaml", "absent.yaml"),
        ("--video-input", "absent.mp4", "absent.mp4"),
        ("--video-input", str(DEMO), "demo.py"),
        ("--video-input", "rtsp://door:554/live", "--webcam"),
        ("--video-input", "http://host/film.mp4", "--webcam"),
        ("--output", "out.txt", "out.txt"),
        ("--opts", "absent.pth", "absent.pth"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_exit_code_2(demo, monkeypatch, arguments, capsys, option, value, message):
    arguments[option] = value
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not Path(arguments["--output"]).exists()


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 1, 3)])
def test_a_frame_of_one_line_is_detected_in_and_drawn(demo, monkeypatch, arguments, tmp_path, shape):
    """With a real, tiny model."""
    cfg = tiny_cfg({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "DATASETS.TEST": ()})
    Path(arguments["--config-file"]).write_text(cfg.dump())
    model = build_model(cfg)
    draw_weights(model)
    torch.save({"model": model.state_dict()}, arguments["--opts"])
    monkeypatch.setattr(demo, "VideoPredictor", VideoPredictor)
    folder = tmp_path / "lines"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), np.full(shape, 60 * index, np.uint8))
    arguments["--video-input"] = str(folder)
    words = ["--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "out.html"), "--link", "2"]
    call(demo, monkeypatch, arguments, *words, "--confidence-threshold", "0")
    assert len(json.loads((tmp_path / "out.json").read_text())["frames"]) == 3
    assert page_data(tmp_path / "out.html")["frames"] == 3
    assert len(list(VideoReader(arguments["--output"]))) == 3


def page_data(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_the_report_has_all_detections_and_those_of_the_other_detector(demo, monkeypatch, arguments, tmp_path):
    other = ["--compare", arguments["--config-file"], arguments["--opts"]]
    del arguments["--output"]
    call(demo, monkeypatch, arguments, "--report", str(tmp_path / "{name}.html"), *other)
    data = page_data(tmp_path / "in.html")
    assert (data["frames"], data["fps"], data["threshold"], data["compared"]) == (3, 10.0, 0.5, True)
    assert sorted(track["found"]["scores"] for track in data["tracks"]) == [[0.25] * 3, [0.75] * 3]
    assert all(track["baseline"] == track["found"] for track in data["tracks"])


@pytest.mark.parametrize(
    ("name", "harm", "frames", "complaint"),
    [
        ("v.mp4", damage.flip_bytes, [*range(12)], "damaged"),
        ("v.mp4", damage.lose_packet, [*range(5), *range(6, 12)], "1 of 12 frames is missing"),
        ("v.mkv", damage.cut_off, None, "of 12 frames are missing"),
    ],
)
def test_a_partial_video_is_finished_and_named_in_one_sentence(
    demo, monkeypatch, arguments, capsys, tmp_path, name, harm, frames, complaint
):
    path = write_numbered_video(tmp_path / name, 12, codec="mpeg4", b_frames=0)
    harm(path)
    arguments["--video-input"] = str(path)
    call(demo, monkeypatch, arguments, "--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "out.html"))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("partial: ") and name in last and complaint in last
    indices = [frame["index"] for frame in json.loads((tmp_path / "out.json").read_text())["frames"]]
    assert indices == frames if frames else 0 < len(indices) < 12
    assert len(list(VideoReader(arguments["--output"]))) == len(indices)
    data = page_data(tmp_path / "out.html")
    assert (data["frames"], data["gaps"]) == (len(indices), [5] if harm is damage.lose_packet else [])
    assert complaint in (tmp_path / "out.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "harm", [damage.lose_index, damage.lose_everything, damage.lose_pictures, damage.lose_duration]
)
def test_an_unreadable_video_ends_in_one_sentence_and_exit_code_2(demo, monkeypatch, arguments, capsys, harm):
    harm(Path(arguments["--video-input"]))
    with pytest.raises(SystemExit) as stop:
        call(demo, monkeypatch, arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and "in.mp4" in last
