"""Files of detections: each format is a context manager that takes the frames of one video in order."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from vod2.atomic import replacing, write_json
from vod2.d2 import Instances
from vod2.visualization import class_name


@dataclass(frozen=True)
class VideoFacts:
    """What the files say of a video.

    Args:
        name: its path or address.
        fps: frames per second.
        size: (width, height) in pixels.
        class_names: names by label.
        category_ids: {label: id in the annotation file of the dataset}, for COCO; a label that is not in it stays.
    """

    name: str
    fps: Fraction | float
    size: tuple[int, int]
    class_names: Sequence[str] = ()
    category_ids: Mapping[int, int] = field(default_factory=dict)


class DetectionFile(ABC):
    """Takes `write(index, instances, time)` for each frame; the whole file appears when the block ends.

    It also appears if the block is interrupted or raises after its first frame: with the frames so far, and complete
    as a file. `instances` have pred_boxes (xyxy pixels of the frame), scores, pred_classes, and track_ids if known, on
    the CPU.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "found.txt"
        >>> with MotFile(path, VideoFacts("in.mp4", 25, (64, 48))) as file:
        ...     pass
        >>> path.read_text()
        ''
    """

    def __init__(self, path: str | os.PathLike, video: VideoFacts) -> None:
        self.path, self.video = Path(path), video
        self._frames = 0

    def __enter__(self) -> "DetectionFile":
        return self

    def write(self, index: int, instances: Instances, time: Fraction | float | None = None) -> None:
        """Add a frame.

        Args:
            index: its number, from 0.
            instances: what was found in it.
            time: seconds from the start of the video; None where the rate is constant: index / fps.
        """
        seconds = float(index / self.video.fps if time is None else time)
        self._add(index, round(seconds, 6), detections_of(instances))
        self._frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._frames:
            self._save()

    @abstractmethod
    def _add(self, index: int, time: float, detections: list[dict]) -> None: ...

    @abstractmethod
    def _save(self) -> None: ...


class JsonFile(DetectionFile):
    """{"video", "fps", "width", "height", "class_names", "frames": [{"index", "time" (s), "detections"}]}.

    A detection is {"box" (xyxy pixels), "class", "label", "score"} and, where tracks are known, "track"; one that was
    interpolated in a gap of its track has "filled": true. `fps` is the mean where the rate varies. The object grows in
    memory with the video: a stream without an end wants `JsonLinesFile`.
    """

    def __init__(self, path: str | os.PathLike, video: VideoFacts) -> None:
        super().__init__(path, video)
        self._records: list[dict] = []

    def _add(self, index: int, time: float, detections: list[dict]) -> None:
        self._records.append(as_record(index, time, detections, self.video.class_names))

    def _save(self) -> None:
        width, height = self.video.size
        facts = {"video": self.video.name, "fps": float(self.video.fps), "width": width, "height": height}
        write_json(self.path, {**facts, "class_names": list(self.video.class_names), "frames": self._records})


class JsonLinesFile(DetectionFile):
    """One line for each frame, the `frames` of `JsonFile`; unlike the others it can be read while it grows."""

    def __enter__(self) -> "JsonLinesFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "w", encoding="utf-8")
        return self

    def _add(self, index: int, time: float, detections: list[dict]) -> None:
        # NaN is no JSON: an error here is better than a line that other readers refuse.
        self._file.write(json.dumps(as_record(index, time, detections, self.video.class_names), allow_nan=False) + "\n")
        # Whoever follows the file sees a frame as soon as it is detected.
        self._file.flush()

    # Also after an error: each line was complete when it was written.
    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def _save(self) -> None:
        """Every line already is in the file."""


class MotFile(DetectionFile):
    """MOTChallenge text: frame, track, left, top, width, height, score, class, -1, -1.

    Frames and classes count from 1; a track is -1 where it is unknown. With one class it is what the benchmark's tools
    take, which know no others. The format has no column for times, nor for what was filled into gaps: write JSON
    lines, too, where these matter.
    """

    def __init__(self, path: str | os.PathLike, video: VideoFacts) -> None:
        super().__init__(path, video)
        self._lines: list[str] = []

    def _add(self, index: int, time: float, detections: list[dict]) -> None:
        for detection in detections:
            box = ",".join(f"{value:.2f}" for value in as_xywh(detection["box"]))
            track, label = detection.get("track", -1), detection["label"] + 1
            self._lines.append(f"{index + 1},{track},{box},{detection['score']:.6f},{label},-1,-1\n")

    def _save(self) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text("".join(self._lines), encoding="utf-8")


class CocoFile(DetectionFile):
    """COCO results: [{"image_id" (the frame's index), "category_id", "bbox" (x, y, width, height), "score", "time"}].

    `time`, seconds from the start, is no field of COCO's; readers of results leave it alone.
    """

    def __init__(self, path: str | os.PathLike, video: VideoFacts) -> None:
        super().__init__(path, video)
        self._results: list[dict] = []

    def _add(self, index: int, time: float, detections: list[dict]) -> None:
        for detection in detections:
            category = self.video.category_ids.get(detection["label"], detection["label"])
            result = {"image_id": index, "category_id": category, "bbox": as_xywh(detection["box"])}
            result |= {"score": detection["score"], "time": time}
            if "track" in detection:
                result["track_id"] = detection["track"]
            if detection.get("filled"):
                result["filled"] = True
            self._results.append(result)

    def _save(self) -> None:
        write_json(self.path, self._results)


FORMATS: dict[str, type[DetectionFile]] = {
    "json": JsonFile,
    "jsonl": JsonLinesFile,
    "mot": MotFile,
    "coco": CocoFile,
}
"""By the names that command lines use."""


def detections_of(instances: Instances) -> list[dict]:
    """Plain values of one frame: {"box" [x1, y1, x2, y2], "label", "score"}, and "track" if there are track_ids.

    Those that `filled` marks have "filled": True.
    """
    columns = {
        "box": instances.pred_boxes.tensor.tolist(),
        "label": instances.pred_classes.tolist(),
        "score": instances.scores.tolist(),
    }
    if instances.has("track_ids"):
        columns["track"] = instances.track_ids.tolist()
    detections = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if instances.has("filled"):
        for row in instances.filled.nonzero()[:, 0].tolist():
            detections[row]["filled"] = True
    return detections


def as_record(index: int, time: float, detections: list[dict], class_names: Sequence[str]) -> dict:
    """One frame of `JsonFile`, at `time` seconds."""
    records = []
    for detection in detections:
        name = class_name(detection["label"], class_names)
        # The union keeps the order of its left side.
        records.append({"box": detection["box"], "class": name} | detection)  # box and class come first
    return {"index": index, "time": time, "detections": records}


def as_xywh(box: Sequence[float]) -> list[float]:
    """xyxy -> [left, top, width, height]."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]
