"""Annotations of tools and data sets that are read as a `LabelledSet`, for the check of a dataset."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vod2.data.checks.findings import ERROR, CheckedFrame, CheckedObject, CheckedVideo, Finding, finding_of
from vod2.data.checks.labels import LabelFormat
from vod2.data.datasets.bdd import read_bdd
from vod2.data.datasets.coco_video import require_categories
from vod2.data.datasets.cvat import cvat_files, read_cvat
from vod2.data.datasets.epic import read_epic
from vod2.data.datasets.faults import Report
from vod2.data.datasets.files import files_in
from vod2.data.datasets.label_studio import read_label_studio
from vod2.data.datasets.labelled import LabelledSet, LabelledVideo
from vod2.data.datasets.visdrone import read_visdrone
from vod2.errors import UserError

_FRAMES = frozenset({"image_root", "video_root", "video_suffix"})
_HEAD = 4096  # bytes in which a file shows what it is


class LabelledFormat(LabelFormat):
    """A format whose reader returns a `LabelledSet`.

    Args:
        path: file or folder of the annotations.
        class_names: the classes to keep; None for all.
        list_file: JSON list of the image ids to check; None for all.
        options: of the reader.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        list_file: str | os.PathLike | None = None,
        **options: Any,
    ) -> None:
        super().__init__(path, list_file)
        if not Path(path).exists():
            raise UserError(f"{path}: no such file or folder, expected annotations")
        self._kept = None if class_names is None else list(class_names)
        self._options = options

    @abstractmethod
    def read(self, report: Report) -> LabelledSet:
        """Everything, with all faults reported."""

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids = []
        findings: list[Finding] = []
        labelled = self.read(lambda fault: findings.append(finding_of(fault)))
        self.classes = labelled.class_names
        if self._kept is not None:
            if labelled.videos:
                require_categories(self._kept, dict(enumerate(labelled.class_names)), self._root)
            self.classes = self._kept
        # What was found in frames that the list does not name is nothing that anybody asks about.
        listed = self._listed
        asked = [f for f in findings if listed is None or not f.entries or not listed.isdisjoint(f.entries)]
        yield CheckedVideo("", findings=asked)
        if labelled.videos and not self.classes:
            findings = [Finding(ERROR, "unknown_class", str(self._root), "no classes", "at least one object")]
            yield CheckedVideo("", findings=findings)
        known = set(labelled.class_names)
        for video in labelled.videos:
            yield self._finish(self._checked(video, known))

    def _checked(self, video: LabelledVideo, known: set[str]) -> CheckedVideo:
        checked = CheckedVideo(video.name)
        for index in sorted(video.frames):
            frame = video.frames[index]
            # An unknown class is none that was left out on purpose: the walk reports it.
            objects = [
                CheckedObject(thing.name, thing.box, None if thing.iscrowd else thing.track)
                for thing in frame.objects
                if self._kept is None or thing.name in self._kept or thing.name not in known
            ]
            entry = f"{video.name}/{index:06d}"
            checked.frames.append(CheckedFrame(index, frame.file, video.annotation, objects, frame.size, entry))
            if video.in_file:
                checked.file = frame.file
        return checked


def head_of(path: str | os.PathLike) -> bytes:
    """The first bytes of a file; none of a folder, or of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


class Cvat(LabelledFormat):
    """An XML file of CVAT, or a folder of them; arguments as of `load_cvat`."""

    name = "cvat"
    options = frozenset({"class_names", "list_file"}) | _FRAMES
    boxes_may_leave = True

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return any(b"<annotations>" in head_of(file) for file in cvat_files(path)[:1])

    def read(self, report: Report) -> LabelledSet:
        return read_cvat(self._root, report, **self._options)


class LabelStudio(LabelledFormat):
    """A JSON export of Label Studio; arguments as of `load_label_studio`."""

    name = "label_studio"
    options = frozenset({"class_names", "list_file", "predictions"}) | _FRAMES
    boxes_may_leave = True

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        head = head_of(path)
        # The keys of a task come in any order.
        return head.lstrip().startswith(b"[") and any(key in head for key in (b'"data"', b'"annotations"'))

    def read(self, report: Report) -> LabelledSet:
        return read_label_studio(self._root, report, **self._options)


class VisDrone(LabelledFormat):
    """<path>/sequences/<video>/0000001.jpg, <path>/annotations/<video>.txt; arguments as of `load_visdrone`."""

    name = "visdrone"
    options = frozenset({"class_names", "list_file", "sequences"})
    boxes_may_leave = True

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "sequences").is_dir() and Path(path, "annotations").is_dir()

    def read(self, report: Report) -> LabelledSet:
        return read_visdrone(self._root, report, **self._options)


class Bdd(LabelledFormat):
    """JSON of BDD100K, one file or a folder of them; arguments as of `load_bdd`."""

    name = "bdd"
    options = frozenset({"class_names", "list_file", "image_root"})

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        head = head_of(next(iter(sorted(files_in(Path(path), ".json"))), path))
        return any(key in head for key in (b'"videoName"', b'"video_name"', b'"box2d"'))

    def read(self, report: Report) -> LabelledSet:
        return read_bdd(self._root, report, class_names=self._kept, **self._options)


class Epic(LabelledFormat):
    """The object labels of EPIC-KITCHENS-55, a CSV file; arguments as of `load_epic`."""

    name = "epic"
    options = frozenset({"class_names", "list_file"}) | _FRAMES

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        line = head_of(path).split(b"\n")[0]
        return b"noun_class" in line and b"bounding_boxes" in line

    def read(self, report: Report) -> LabelledSet:
        return read_epic(self._root, report, **self._options)
