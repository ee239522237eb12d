"""Annotations in lines of text, for the check of a dataset: UAVDT and MOT, read with the parsers of their loaders."""

import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vod2.data.checks.findings import (
    ERROR,
    CheckedFrame,
    CheckedObject,
    CheckedVideo,
    CheckFormat,
    Finding,
    finding_of,
    keep_listed_frames,
    write_ids,
)
from vod2.data.datasets.common import read_image_ids, video_file
from vod2.data.datasets.faults import Fault, Place
from vod2.data.datasets.files import folders_in
from vod2.data.datasets.mot import (
    SequenceInfo,
    classes_of,
    find_sequences,
    parse_ground_truth,
    read_sequence,
)
from vod2.data.datasets.uavdt import UAVDT_CLASSES, UAVDT_SEQUENCES, parse_uavdt_table
from vod2.errors import UserError

Row = TypeVar("Row", bound=Hashable)


class LabelFormat(CheckFormat):
    """What the layouts here share: image ids `<video>/<frame>`, and a JSON list of them."""

    def __init__(self, path: str | os.PathLike, list_file: str | os.PathLike | None) -> None:
        self._root = Path(path)
        self._listed = read_image_ids(list_file)
        self._ids: list[Hashable] = []

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """A JSON list of image ids."""
        return write_ids(path, self._ids, bad, str(self._root))

    def _finish(self, video: CheckedVideo) -> CheckedVideo:
        video = keep_listed_frames(video, self._listed)
        self._ids += [frame.entry for frame in video.frames]
        return video


class Uavdt(LabelFormat):
    """<path>/UAV-benchmark-M/M####/img000001.jpg, <path>/UAV-benchmark-MOTD_v1.0/GT/M####_gt_whole.txt.

    Args:
        path: folder of both.
        split: "train" or "test", all of whose videos are expected; None for the videos that are there.
        sequences: names of the videos.
        list_file: JSON list of the image ids to check; None for all.
    """

    name = "uavdt"
    options = frozenset({"split", "sequences", "list_file"})
    boxes_may_leave = True
    classes = UAVDT_CLASSES

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        list_file: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(path, list_file)
        if not self.recognizes(path):
            raise UserError(f"{self._images}: no such folder: see datasets/README.md")
        if split is not None and split not in UAVDT_SEQUENCES:
            raise UserError(f"split {split!r} is unknown, expected one of {', '.join(UAVDT_SEQUENCES)}")
        if sequences is None:
            if split is None:
                sequences = [folder.name for folder in folders_in(self._images)]
            else:
                sequences = UAVDT_SEQUENCES[split]
        self._sequences = sequences

    @property
    def _images(self) -> Path:
        return self._root / "UAV-benchmark-M"

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "UAV-benchmark-M").is_dir()

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids = []
        truth = self._root / "UAV-benchmark-MOTD_v1.0" / "GT"
        # Both places of `load_uavdt`.
        truth = truth if truth.is_dir() else self._root / "GT"
        for name in self._sequences:
            folder = self._images / name
            file = truth / f"{name}_gt_whole.txt"
            video = CheckedVideo(name)
            if not folder.is_dir():
                video.findings.append(Finding(ERROR, "missing_video", str(folder), "no such folder", "a video"))
                yield video
                continue
            length = last_number(folder, r"img([0-9]{6})\.jpg")
            for index in range(length):
                # The names of the images, the frames of the annotations and the classes all count from 1.
                number = f"img{index + 1:06d}"
                video.frames.append(
                    CheckedFrame(index, str(folder / f"{number}.jpg"), str(file), entry=f"{name}/{number}")
                )
            for row in self._rows(file, video, length=length):
                # Out-of-view and occlusion have been checked by the parser.
                frame, track, left, top, width, height, _, _, label = row
                thing = CheckedObject(
                    nth(UAVDT_CLASSES, int(label) - 1) or f"class {label:.0f}",
                    (left, top, left + width, top + height),
                    int(track),
                )
                video.frames[int(frame) - 1].objects.append(thing)
            regions = truth / f"{name}_gt_ignore.txt"
            if regions.is_file():
                # Read for its faults alone: regions are no objects.
                self._rows(regions, video, attributes=False)
            yield self._finish(video)

    @staticmethod
    def _rows(file: Path, video: CheckedVideo, **options: Any) -> list[tuple[float, ...]]:
        """The good rows of a file, each once; what is wrong with others goes to the findings of the video."""
        lines, table = parse_uavdt_table(file, lambda fault: video.findings.append(finding_of(fault)), **options)
        rows = zip(lines.tolist(), map(tuple, table.tolist()), strict=True)
        return [row for _, row in without_repeats(rows, file, video)]


class Mot(LabelFormat):
    """<path>/<split>/<sequence>/{img1/000001.jpg, gt/gt.txt}, perhaps with a seqinfo.ini; arguments as of `load_mot`.

    Args:
        path: folder of the splits.
        split: a folder below it; None for all that have sequences with a gt.txt, `path` itself among them.
        sequences: names of the videos; None for all.
        classes: {number in gt.txt: name}; None for those of gt/labels.txt, or of MOT17.
        class_names: names of the numbers 1, 2 ..., instead of `classes`.
        keep_classes, video_root, video_suffix, list_file: see `load_mot`.
    """

    name = "mot"
    options = frozenset(
        {"split", "sequences", "classes", "class_names", "keep_classes", "video_root", "video_suffix", "list_file"}
    )
    boxes_may_leave = True

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        classes: Mapping[int, str] | None = None,
        class_names: Sequence[str] | None = None,
        keep_classes: Sequence[str] | None = None,
        video_root: str | os.PathLike | None = None,
        video_suffix: str = ".mp4",
        list_file: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(path, list_file)
        self._kept, self._video_root, self._suffix = keep_classes, video_root, video_suffix
        if split is None:  # all of them: the root itself may be one, or hold several
            split_folders = [self._root, *folders_in(self._root)] if self._root.is_dir() else []
            # A folder of a split may have the test's sequences, whose ground truth nobody has.
            split_folders = [folder for folder in split_folders if any(folder.glob("*/gt/gt.txt"))]
        else:
            split_folders = [self._root / split]
        self._folders = []
        for folder in filter(Path.is_dir, split_folders):
            # One that is asked for by name is checked also where it is no sequence, which is then a finding.
            named = [path for path in folders_in(folder) if path.name in (sequences or ())]
            self._folders += find_sequences(folder) if sequences is None else named
        if not self._folders:
            raise UserError(
                f"{self._root / (split or '')}: expected folders with a seqinfo.ini, or with gt/gt.txt: see "
                "datasets/README.md"
            )
        if class_names is not None:
            classes = dict(enumerate(class_names, start=1))
        self._classes = classes_of(self._folders, classes)
        self.classes = list(self._classes.values())

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        if not os.path.isdir(path):
            return False
        marks = ("seqinfo.ini", "gt/gt.txt")
        return any(any(Path(path).glob(f"{above}/{mark}")) for mark in marks for above in ("*", "*/*"))

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids = []
        for folder in self._folders:
            video = CheckedVideo(folder.name)
            file = None if self._video_root is None else video_file(self._video_root, folder.name, self._suffix)
            try:
                info = read_sequence(folder, file)
            except Fault as fault:
                video.findings.append(finding_of(fault))
                yield video
                continue
            except UserError as error:  # of an image or a video, which the parser needs for its size
                kind = "unreadable_image" if file is None else "unreadable_video"
                video.findings.append(Finding(ERROR, kind, file or str(folder), str(error), "one that can be read"))
                yield video
                continue
            if file is None:
                length = self._count_images(folder / info.folder, info, video)
            else:
                length, video.file = info.length, file
            truth = folder / "gt" / "gt.txt"
            for index in range(length):
                image = video.file or str(folder / info.folder / info.image_name(index))
                entry = f"{folder.name}/{index:06d}"
                video.frames.append(CheckedFrame(index, image, str(truth), [], (info.height, info.width), entry))
            self._read_objects(truth, video)
            yield self._finish(video)

    @staticmethod
    def _count_images(folder: Path, info: SequenceInfo, video: CheckedVideo) -> int:
        # The highest number rather than the number of files: the walk then reports what is missing in between.
        # Names without leading zeros have any number of digits from `digits` on.
        pattern = f"([0-9]{{{info.digits},}})" + re.escape(info.suffix)
        present = last_number(folder, pattern, info.first - 1) + 1 - info.first
        if present != info.length:
            expected = f"{info.length} as seqLength in seqinfo.ini says"
            video.findings.append(Finding(ERROR, "video_length", str(folder), f"{present} frames", expected))
        return present

    def _read_objects(self, truth: Path, video: CheckedVideo) -> None:
        things = parse_ground_truth(truth, len(video.frames), lambda fault: video.findings.append(finding_of(fault)))
        # Without its line, with which no two would be the same.
        for _, thing in without_repeats(((thing.line, thing[1:]) for thing in things), truth, video):
            frame, track, box, label, _ = thing
            name = self._classes.get(label)
            # An unknown number is no class that was left out on purpose.
            if self._kept is None or name is None or name in self._kept:
                video.frames[frame].objects.append(CheckedObject(name or f"class {label}", box, track))


def without_repeats(
    rows: Iterable[tuple[int, Row]], file: Path, video: CheckedVideo, frame: CheckedFrame | None = None
) -> Iterator[tuple[int, Row]]:
    """(line, row) of a file, without the rows that stood on a line before, which are findings of the video.

    Args:
        rows: line and what stands there.
        file: for the findings.
        video: gets the findings.
        frame: that all rows are of.
    """
    first: dict[Row, int] = {}
    for line, row in rows:
        if first.setdefault(row, line) == line:
            yield line, row
        else:
            place = Place(file, line)
            fault = Fault.at(place, f"the same as line {first[row]}", "each line once", "duplicate_line")
            video.findings.append(finding_of(fault, frame))


def last_number(folder: Path, pattern: str, highest: int = 0) -> int:
    """The highest number among the files of a folder whose names match `pattern`, `highest` if there is none."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        match = re.fullmatch(pattern, name)
        if match:
            highest = max(highest, int(match[1]))
    return highest


def nth(names: Sequence[str], number: int) -> str | None:
    """names[number], or None if there is none."""
    return names[number] if 0 <= number < len(names) else None
