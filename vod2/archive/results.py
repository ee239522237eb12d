"""Result files: the detections of one video, a record for each frame, as JSON lines or Parquet.

n: boxes of a frame.
"""

import contextlib
import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vod2.atomic import replacing
from vod2.bounded import load_json
from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.evaluation.detection_files import detections_of
from vod2.visualization import class_name


@dataclass
class FrameRecord:
    """The detections of one frame; its fields are those of a line of the file, in this order.

    Args:
        video: path of the video.
        frame_index: from 0; lost frames count and have no record.
        time: seconds from the first frame to this one, None where the file does not tell.
        boxes: n boxes, [x1, y1, x2, y2] in pixels of the frame.
        scores: n numbers in [0, 1].
        labels: n class numbers from 0.
        class_names: n names.
        track_ids: n numbers, by which the boxes of one object are known in this video; None if nothing was linked.
    """

    video: str
    frame_index: int
    time: float | None
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    class_names: list[str]
    track_ids: list[int] | None

    @staticmethod
    def of(video: str, index: int, time: float | None, instances: Instances, names: Sequence[str]) -> "FrameRecord":
        """Of detections on the CPU (pred_boxes, scores, pred_classes, perhaps track_ids); `names` by label."""
        found = detections_of(instances)
        return FrameRecord(
            video=video,
            frame_index=index,
            time=time,
            boxes=[one["box"] for one in found],
            scores=[one["score"] for one in found],
            labels=[one["label"] for one in found],
            class_names=[class_name(one["label"], names) for one in found],
            track_ids=[one["track"] for one in found] if instances.has("track_ids") else None,
        )


class ResultFile(ABC):
    """Takes the records of a video in order, and holds a bounded number of them."""

    @abstractmethod
    def write(self, record: FrameRecord) -> None:
        """Add the next frame."""

    @abstractmethod
    def close(self) -> None:
        """The last frame has been written: what was held goes to the disk."""


class JsonLinesResult(ResultFile):
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8")

    def write(self, record: FrameRecord) -> None:
        self._file.write(json.dumps(asdict(record), allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


class ParquetResult(ResultFile):
    """A row a frame, with lists as columns; groups of 1,024 rows.

    Raises:
        UserError: pyarrow is not installed.
    """

    GROUP = 1024

    def __init__(self, path: Path) -> None:
        self._arrow = _pyarrow()
        self._schema = _schema(self._arrow)
        self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, record: FrameRecord) -> None:
        self._rows.append(asdict(record))
        if len(self._rows) == self.GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


RESULT_FORMATS: dict[str, Callable[[Path], ResultFile]] = {"jsonl": JsonLinesResult, "parquet": ParquetResult}
"""By their names on the command line, which are the suffixes of the files."""


def require_format(name: str) -> None:
    """Raises UserError if the packages that a format needs are not installed."""
    if RESULT_FORMATS[name] is ParquetResult:
        _pyarrow()


@contextlib.contextmanager
def result_file(path: Path, temporary: Path) -> Iterator[ResultFile]:
    """The file appears as a whole, and on the disk, when the block ends, and not at all if it raises.

    Args:
        path: its suffix is one of `RESULT_FORMATS`; folders are made.
        temporary: an existing folder on the same file system, to write in.
    """
    with replacing(path, temporary) as place:
        file = RESULT_FORMATS[path.suffix[1:]](place)
        try:
            yield file
        finally:
            file.close()
        with open(place, "rb") as written:
            # The manifest must not know of a result that a power cut could still take away.
            os.fsync(written.fileno())


def read_records(path: Path) -> Iterator[FrameRecord]:
    """The records of a file of JSON lines.

    Raises:
        UserError: a line is no record; names it.
    """
    number = 1
    with open(path, encoding="utf-8") as file:
        try:
            for line in file:
                yield FrameRecord(**load_json(line))
                number += 1
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: no record of a frame ({error}): detect the video again") from error


def _pyarrow() -> ModuleType:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "--format parquet needs pyarrow, which is not installed: pip install 'vod2[parquet]', or give --format "
            "jsonl"
        ) from error


def _schema(arrow: ModuleType) -> Any:
    numbers = arrow.list_(arrow.float32())
    return arrow.schema(
        [
            ("video", arrow.string()),
            ("frame_index", arrow.int64()),
            ("time", arrow.float64()),
            ("boxes", arrow.list_(numbers)),
            ("scores", numbers),
            ("labels", arrow.list_(arrow.int32())),
            ("class_names", arrow.list_(arrow.string())),
            ("track_ids", arrow.list_(arrow.int64())),
        ]
    )
