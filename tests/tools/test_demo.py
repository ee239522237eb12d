"""tools/demo.py with a predictor that needs no model."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vod2.d2 import Boxes, Instances
from vod2.data.reader import VideoReader
from vod2.engine.cli import run
from vod2.visualization import VideoWriter

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


class FakePredictor:
    """Finds in frame i a sure object of class 1 at (i, 0, 20 + i, 20) and an unsure one."""

    def __init__(self, cfg):
        assert cfg.MODEL.DEVICE == "cpu" or torch.cuda.is_available()

    def stream(self, frames):
        for index, image in enumerate(frames):
            boxes = torch.tensor([[index, 0, 20 + index, 20], [0, 0, 9, 9]], dtype=torch.float32)
            found = Instances(image.shape[:2], pred_boxes=Boxes(boxes))
            found.scores, found.pred_classes = torch.tensor([0.75, 0.25]), torch.tensor([1, 0])
            yield index, image, {"instances": found}


@pytest.fixture
def demo(monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VideoPredictor", FakePredictor)
    return module


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
    words = [word for pair in options for word in pair] + list(more) + ["--opts", "MODEL.WEIGHTS", weights]
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
    assert frames[2]["detections"] == [{"box": [2, 0, 22, 20], "class": "class 1", "label": 1, "score": 0.75}]


def test_the_threshold_decides_what_is_kept(demo, monkeypatch, arguments, tmp_path):
    call(demo, monkeypatch, arguments, "--json", str(tmp_path / "out.json"), "--confidence-threshold", "0.2")
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert [len(frame["detections"]) for frame in frames] == [2, 2, 2]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--config-file", "absent.yaml", "absent.yaml"),
        ("--video-input", "absent.mp4", "absent.mp4"),
        ("--video-input", str(DEMO), "demo.py"),
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
