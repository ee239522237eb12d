"""Files of detections: each format is a context manager that takes the frames of one video in order."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from vod2.atomic import replacing, write_json
from vod2.d2 import Instances
from vod2.visualization import class_name

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML cannot hold


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


class _Boxed(NamedTuple):
    """A box (xyxy pixels) of a track in frame `frame`, from 0."""

    frame: int
    box: list[float]
    score: float
    filled: bool


class _TrackFile(DetectionFile):
    """Collects the boxes of each track, for formats whose entries are tracks.

    A box without a track is one of its own, in its frame alone. A label that changes within a track begins another.
    """

    def __init__(self, path: str | os.PathLike, video: VideoFacts) -> None:
        super().__init__(path, video)
        self._tracks: dict[tuple[int | str, int], list[_Boxed]] = {}
        self._alone = self._length = 0

    def _add(self, index: int, time: float, detections: list[dict]) -> None:
        self._length = max(self._length, index + 1)
        for detection in detections:
            label, score = detection["label"], detection["score"]
            track = detection.get("track")
            if track is None:
                track, self._alone = f"alone {self._alone}", self._alone + 1
            boxed = _Boxed(index, detection["box"], score, bool(detection.get("filled")))
            self._tracks.setdefault((track, label), []).append(boxed)

    def _labelled_tracks(self) -> Iterator[tuple[str, list[_Boxed]]]:
        """The name of the class of each track and its boxes, in the order in which the tracks begin."""
        for (_, label), boxes in self._tracks.items():
            yield class_name(label, self.video.class_names), boxes

    @property
    def _names(self) -> list[str]:
        """The classes of the model, and others that occur."""
        return list(dict.fromkeys([*self.video.class_names, *(name for name, _ in self._labelled_tracks())]))


class CvatFile(_TrackFile):
    """XML of "CVAT for video 1.1", which CVAT imports into a task of the same video, to be corrected there.

    The labels of the task must have the names of the classes. Where a track is gone, its next box is `outside`; a box
    that was interpolated in a gap of its track is no keyframe. The format has no place for scores.
    """

    def _save(self) -> None:
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
            file.write(f"  <meta>{self._task()}</meta>\n")
            for number, (name, boxes) in enumerate(self._labelled_tracks()):
                file.write(f'  <track id="{number}" label={_quoted(name)} source="auto">\n')
                for boxed, is_last in _pieces(boxes):
                    file.write(_cvat_box(boxed.frame, boxed.box, outside=False, keyframe=not boxed.filled))
                    if is_last and boxed.frame + 1 < self._length:
                        file.write(_cvat_box(boxed.frame + 1, boxed.box, outside=True, keyframe=True))
                file.write("  </track>\n")
            file.write("</annotations>\n")

    def _task(self) -> str:
        width, height = self.video.size
        labels = "".join(f"<label><name>{_escaped(name)}</name><attributes/></label>" for name in self._names)
        name = Path(self.video.name).name
        return (
            f"<task><id>0</id><name>{_escaped(Path(name).stem)}</name><size>{self._length}</size>"
            f"<mode>interpolation</mode><overlap>0</overlap><start_frame>0</start_frame>"
            f"<stop_frame>{max(self._length - 1, 0)}</stop_frame><frame_filter></frame_filter><labels>{labels}</labels>"
            f"<original_size><width>{width}</width><height>{height}</height></original_size>"
            f"<source>{_escaped(name)}</source></task>"
        )


class LabelStudioFile(_TrackFile):
    """Tasks of Label Studio with one prediction, to be imported and corrected there.

    They fit a labeling interface with `<Video name="video" value="$video"/>`, `<VideoRectangle name="box"
    toName="video"/>` and `<Labels name="labels" toName="video">`. `video` is the name of the file as it was given:
    replace it by the address at which Label Studio finds it. The score of a region is the mean of its boxes.
    """

    def _save(self) -> None:
        results = []
        for number, (name, boxes) in enumerate(self._labelled_tracks()):
            value = {
                "framesCount": self._length,
                "duration": round(self._length / float(self.video.fps), 6),
                "sequence": [self._keyframe(boxed, is_last) for boxed, is_last in _pieces(boxes)],
                "labels": [name],
            }
            score = sum(boxed.score for boxed in boxes) / len(boxes)
            result = {"id": f"track{number}", "type": "videorectangle", "from_name": "box", "to_name": "video"}
            results.append({**result, "value": value, "score": score})
        prediction = {"model_version": "vod2", "result": results}
        write_json(self.path, [{"data": {"video": self.video.name}, "predictions": [prediction]}])

    def _keyframe(self, boxed: _Boxed, is_last: bool) -> dict:
        x, y, width, height = as_xywh(boxed.box)
        across, down = self.video.size
        sides = {"x": x / across, "y": y / down, "width": width / across, "height": height / down}
        # Frames count from 1 there, and the time of one is its end.
        number = boxed.frame + 1
        times = {"frame": number, "time": round(number / float(self.video.fps), 6)}
        percents = {side: round(100 * share, 6) for side, share in sides.items()}
        return {**times, "enabled": not is_last, "rotation": 0, **percents}


FORMATS: dict[str, type[DetectionFile]] = {
    "json": JsonFile,
    "jsonl": JsonLinesFile,
    "mot": MotFile,
    "coco": CocoFile,
    "cvat": CvatFile,
    "label_studio": LabelStudioFile,
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


def _pieces(boxes: Sequence[_Boxed]) -> Iterator[tuple[_Boxed, bool]]:
    """The boxes of a track, and whether each is the last one before a gap, or of all."""
    for position, boxed in enumerate(boxes):
        is_last = position + 1 == len(boxes) or boxes[position + 1].frame > boxed.frame + 1
        yield boxed, is_last


def _cvat_box(index: int, box: Sequence[float], outside: bool, keyframe: bool) -> str:
    sides = " ".join(f'{side}="{value:.2f}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    flags = f'keyframe="{int(keyframe)}" outside="{int(outside)}" occluded="0"'
    return f'    <box frame="{index}" {flags} {sides} z_order="0"></box>\n'


def _escaped(text: str) -> str:
    """`text` in XML, which has no place for control characters."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def _quoted(text: str) -> str:
    return quoteattr(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def as_xywh(box: Sequence[float]) -> list[float]:
    """xyxy -> [left, top, width, height]."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]
