"""YOLO's labels, line by line, for the check of a dataset."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from vod2.data.checks.findings import ERROR, CheckedFrame, CheckedObject, CheckedVideo, Finding
from vod2.data.checks.labels import LabelFormat, nth, read_rows
from vod2.data.datasets.common import video_file
from vod2.data.datasets.yolo import read_class_names
from vod2.errors import UserError
from vod2.video import VideoReader, images_in

_COLUMNS = ("class", "center_x", "center_y", "width", "height", "track")
_LEAST = 5  # the track may be left out
_TOLERANCE = 0.01  # relative numbers leave [0, 1] by so little through rounding


class YoloVideo(LabelFormat):
    """<path>/images/<split>/<video>/<frame>.jpg, <path>/labels/<split>/<video>/<frame>.txt, or side by side.

    Args:
        path: folder of both.
        class_names: the names, or a file with them; None for <path>/data.yaml, and without one any class is good.
        split: a folder below images and labels.
        video_root, video_suffix, first_frame, list_file: see `load_yolo_video`.
    """

    name = "yolo"
    options = frozenset({"split", "class_names", "video_root", "video_suffix", "first_frame", "list_file"})

    def __init__(
        self,
        path: str | os.PathLike,
        class_names: Sequence[str] | str | os.PathLike | None = None,
        split: str | None = None,
        video_root: str | os.PathLike | None = None,
        video_suffix: str = ".mp4",
        first_frame: int = 0,
        list_file: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(path, list_file)
        self._video_root, self._suffix, self._first = video_root, video_suffix, first_frame
        if class_names is None and (self._root / "data.yaml").is_file():
            class_names = self._root / "data.yaml"
        if isinstance(class_names, str | os.PathLike):
            class_names = read_class_names(class_names)
        self.classes = None if class_names is None else list(class_names)
        separate = (self._root / "images").is_dir() or (self._root / "labels").is_dir()
        self._images, self._labels = (
            self._root / (part if separate else "") / (split or "") for part in ("images", "labels")
        )
        needed = self._images if video_root is None else self._labels
        if not needed.is_dir():
            raise UserError(f"{needed}: no such folder: see datasets/README.md for how to lay it out")

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "images").is_dir() and Path(path, "labels").is_dir()

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids = []
        if self._video_root is not None:
            yield from map(self._of_file, sorted(path for path in self._labels.iterdir() if path.is_dir()))
            return
        for folder in sorted(path for path in self._images.iterdir() if path.is_dir()):
            labels = self._labels / folder.name
            video = CheckedVideo(folder.name)
            stems = set()
            for index, file in enumerate(images_in(folder)):
                stems.add(file.stem)
                label = labels / f"{file.stem}.txt"
                frame = CheckedFrame(index, str(file), str(label), entry=f"{video.name}/{index:06d}")
                video.frames.append(frame)
                if label.is_file():
                    self._read(frame, label, _size(file), video)
            for label in sorted(label for label in labels.glob("*.txt") if label.stem not in stems):
                video.findings.append(Finding(ERROR, "missing_frame", str(label), "labels without an image", "one"))
            yield self._done(video)

    def _of_file(self, labels: Path) -> CheckedVideo:
        file = video_file(self._video_root, labels.name, self._suffix)
        video = CheckedVideo(labels.name)
        try:
            reader = VideoReader(file)
            length, size = reader.frame_count(), reader.size[::-1]
        except UserError as error:
            kind = "unreadable_video" if os.path.exists(file) else "missing_video"
            video.findings.append(Finding(ERROR, kind, file, str(error), "a video"))
            return video
        video.file = file
        video.frames = [CheckedFrame(i, file, str(labels), [], size, f"{video.name}/{i:06d}") for i in range(length)]
        for label in sorted(labels.glob("*.txt")):
            digits = re.findall(r"[0-9]+", label.stem)
            index = int(digits[-1]) - self._first if digits else -1
            if 0 <= index < length:
                video.frames[index].annotation = str(label)
                self._read(video.frames[index], label, size, video)
            else:
                expected = f"a name that ends in {self._first} to {length - 1 + self._first}"
                video.findings.append(Finding(ERROR, "missing_frame", str(label), f"{length} frames", expected))
        return self._done(video)

    def _read(self, frame: CheckedFrame, label: Path, size: tuple[int, int] | None, video: CheckedVideo) -> None:
        for row in read_rows(label, _COLUMNS, None, _LEAST):
            if isinstance(row, Finding):
                entries = (frame.entry,)
                video.findings.append(
                    Finding(row.severity, row.kind, row.file, row.value, row.expected, row.line, frame.index, entries)
                )
                continue
            _, (category, x, y, w, h, *track) = row
            name = (self.classes and nth(self.classes, category)) or f"class {category:g}"
            if not all(-_TOLERANCE <= side <= 1 + _TOLERANCE for side in (x, y, w, h)):
                value = f"({x:g}, {y:g}, {w:g}, {h:g})"
                finding = frame.finding(
                    ERROR, "box_outside", str(label), value, "a box relative to the image, in [0, 1]"
                )
                video.findings.append(finding)
            elif size is not None:
                box = ((x - w / 2) * size[1], (y - h / 2) * size[0], (x + w / 2) * size[1], (y + h / 2) * size[0])
                frame.objects.append(CheckedObject(name, box, track[0] if track else None))


def _size(path: Path) -> tuple[int, int] | None:
    """(height, width) as the head of the file says, turned as its camera says; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(0x0112, 1) >= 5 else (height, width)
    except (OSError, ValueError, SyntaxError, TypeError):
        return None
