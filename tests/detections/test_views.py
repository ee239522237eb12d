"""The forms in which people take detections."""

import json
import pickle
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from helpers.models import make_video, tiny_cfg
from vod2 import VideoPredictor, link
from vod2.detections import Result, as_instances
from vod2.engine.streams import DetectedFrame
from vod2.errors import UserError
from vod2.visualization import draw_instances

SEEN = ([[4.0, 5.0, 30.0, 20.0], [1.0, 1.0, 9.0, 9.0]], [0.75, 0.25], [1, 0])
NAMES = ["cat", "dog"]
IMAGE = np.full((32, 48, 3), 90, np.uint8)


@pytest.fixture(params=["result", "frame of a stream"])
def result(request):
    if request.param == "result":
        return Result(SEEN, 7, IMAGE, NAMES)
    frame = DetectedFrame(7, IMAGE, {"instances": as_instances(SEEN, (32, 48))})
    frame.class_names = NAMES
    return frame


def test_plain_values(result):
    found = result.to_dict()
    assert found == {
        "index": 7,
        "detections": [
            {"box": [4.0, 5.0, 30.0, 20.0], "class": "dog", "label": 1, "score": 0.75},
            {"box": [1.0, 1.0, 9.0, 9.0], "class": "cat", "label": 0, "score": 0.25},
        ],
    }
    assert json.loads(json.dumps(found)) == found


def test_arrays(result):
    arrays = result.to_numpy()
    assert set(arrays) == {"boxes", "scores", "labels"}
    assert arrays["boxes"].tolist() == SEEN[0] and arrays["labels"].dtype == np.int64


def test_tracks_are_in_every_form():
    (frame,) = link([SEEN])
    result = Result(frame)
    assert [row["track"] for row in result.to_dict()["detections"]] == [0, 1]
    assert result.to_numpy()["track_ids"].tolist() == [0, 1]


def test_the_drawing_is_that_of_draw_instances_and_leaves_the_image(result, tmp_path):
    drawn = result.plot(threshold=0.5)
    assert np.array_equal(drawn, draw_instances(IMAGE, as_instances(SEEN), NAMES, 0.5))
    assert not np.array_equal(drawn, result.plot(threshold=0.1)) and (IMAGE == 90).all()
    result.save(tmp_path / "out" / "frame.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "out" / "frame.png")), drawn)


def test_without_an_image_a_sentence_says_so():
    with pytest.raises(UserError, match="frame 3 has no image"):
        Result(SEEN, 3).plot()


def test_a_table_of_pandas(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda columns: columns))
    table = result.to_dataframe()
    assert list(table) == ["frame", "x1", "y1", "x2", "y2", "score", "label", "class"]
    assert (
        table["frame"].tolist() == [7, 7] and table["x2"].tolist() == [30.0, 9.0] and table["class"] == ["dog", "cat"]
    )
    assert list(Result(link([SEEN])[0]).to_dataframe())[-1] == "track"


def test_detections_of_supervision_and_back(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    found = result.to_supervision()
    assert found.tracker_id is None and found.data["class_name"].tolist() == ["dog", "cat"]
    again = as_instances(found)
    assert again.pred_boxes.tensor.tolist() == SEEN[0] and again.pred_classes.tolist() == SEEN[2]
    assert Result(link([SEEN])[0]).to_supervision().tracker_id.tolist() == [0, 1]


@pytest.mark.parametrize(("method", "library"), [("to_dataframe", "pandas"), ("to_supervision", "supervision")])
def test_a_library_that_is_missing_is_named_with_the_command(result, method, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"{method} needs {library}, which is not installed: pip install {library}"):
        getattr(result, method)()


def test_a_frame_of_a_stream_still_unpacks_and_keeps_its_names():
    frame = DetectedFrame(7, IMAGE, {"instances": as_instances(SEEN)})
    assert frame.class_names == ()
    frame.class_names = NAMES
    index, image, output = frame
    assert (index, image is IMAGE, len(output["instances"])) == (7, True, 2)
    assert frame._replace(index=8).class_names == NAMES and frame._replace(index=8).index == 8
    copy = pickle.loads(pickle.dumps(frame))
    assert copy.index == 7 and copy.class_names == NAMES


def test_a_predictor_gives_names_drawings_and_tables():
    predictor = VideoPredictor(tiny_cfg(), weights="")
    images = [np.ascontiguousarray(image.numpy().transpose(1, 2, 0).astype(np.uint8)) for image in make_video(2)]
    for frame in predictor.stream(images):
        assert frame.instances is frame.output["instances"]
        assert frame.plot(0.0).shape == frame.image.shape
        assert len(frame.to_dict()["detections"]) == len(frame.instances) > 0
    assert list(predictor.class_names) == []
    assert torch.equal(torch.from_numpy(frame.to_numpy()["scores"]), frame.instances.scores)
