"""Annotations of videos in one JSON file, for the check of a dataset, read with the parser of their loader."""

import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path

from vod2.data.checks.findings import (
    CheckedFrame,
    CheckedObject,
    CheckedVideo,
    CheckFormat,
    Finding,
    finding_of,
    write_ids,
)
from vod2.data.datasets.coco_parser import ParsedFile, ParsedObject, ParsedVideo, parse_coco_video
from vod2.data.datasets.coco_video import find_image_root, require_categories
from vod2.data.datasets.common import read_image_ids, video_file
from vod2.data.datasets.faults import Fault, Place
from vod2.errors import UserError


class CocoVideo(CheckFormat):
    """A JSON file of either kind; arguments as of `load_coco_video`."""

    name = "coco_video"
    options = frozenset(
        {
            "image_root",
            "class_names",
            "video_root",
            "video_suffix",
            "first_frame",
            "list_file",
            "group_keys",
            "key_flag",
        }
    )

    def __init__(
        self,
        path: str | os.PathLike,
        image_root: str | os.PathLike | None = None,
        class_names: Sequence[str] | None = None,
        video_root: str | os.PathLike | None = None,
        video_suffix: str = ".mp4",
        first_frame: int = 0,
        list_file: str | os.PathLike | None = None,
        group_keys: Sequence[str] = (),
        key_flag: str | None = None,
    ) -> None:
        self._listed = read_image_ids(list_file)
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file, expected the JSON of a dataset")
        self._path = str(path)
        self._image_root = image_root
        self._kept = None if class_names is None else list(class_names)
        self._video_root, self._suffix = video_root, video_suffix
        self._first, self._group_keys, self._key_flag = first_frame, group_keys, key_flag
        self._ids: list[Hashable] = []

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path).is_file() and Path(path).name.endswith((".json", ".json.gz"))

    def videos(self) -> Iterator[CheckedVideo]:
        # Every walk collects its own list.
        self._ids = []
        findings: list[Finding] = []
        parsed = parse_coco_video(
            self._path,
            lambda fault: findings.append(finding_of(fault)),
            keep=self._kept,
            in_files=self._video_root is not None,
            first_frame=self._first,
            group_keys=self._group_keys,
            image_root=self._image_root,
            key_flag=self._key_flag,  # frames that are no key frames are supports, and checked as well
        )
        self.classes = list(parsed.categories.values())
        root = find_image_root(parsed, self._path, self._image_root)
        # What only the whole file shows: the parser looks at one entry at a time.
        if self._kept is None:
            findings += _repeated_names(parsed, self._path)
        elif parsed.categories:
            require_categories(self._kept, parsed.categories, self._path)
        repeated = _repeated_annotations(parsed)
        findings += [finding_of(fault) for fault in repeated.values()]
        videos = [self._video(video, repeated, root) for video in parsed.videos]
        left_out: set[Hashable] = set()  # the entries of frames that the list file does not name
        for video in videos:
            left_out.update(frame.entry for frame in video.frames if not self._is_listed(frame))
            video.frames = [frame for frame in video.frames if self._is_listed(frame)]
        # The file's own findings come first, without those of frames that nobody asks about.
        yield CheckedVideo("", findings=[finding for finding in findings if left_out.isdisjoint(finding.entries)])
        for video in videos:
            self._ids += [frame.entry for frame in video.frames]
            yield video

    def _video(self, parsed: ParsedVideo, repeated: Collection[int], root: str | os.PathLike) -> CheckedVideo:
        """A video without the objects of annotations that are repeated."""
        file = None if self._video_root is None else video_file(self._video_root, parsed.name, self._suffix)
        video = CheckedVideo(parsed.name, file=file)
        for index in sorted(parsed.frames):
            frame = parsed.frames[index]
            image = file
            if image is None:
                assert frame.file_name is not None  # only frames of video files have none
                image = os.path.join(root, frame.file_name)
            objects = [_checked_object(thing) for thing in frame.objects if thing.annotation not in repeated]
            entry = f"{parsed.name}/{index:06d}"
            video.frames.append(CheckedFrame(index, image, self._path, objects, frame.size, entry))
        return video

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """A JSON list of image ids, `<name of the video>/<frame, six digits>`."""
        return write_ids(path, self._ids, bad, self._path)

    def _is_listed(self, frame: CheckedFrame) -> bool:
        return self._listed is None or frame.entry in self._listed


def _checked_object(thing: ParsedObject) -> CheckedObject:
    # A category that the file does not have gets a name that no class has, so that the walk reports it.
    name = f"category_id {thing.category!r:.40}" if thing.name is None else thing.name
    # A crowd is no single object: it may share the track of one.
    return CheckedObject(name, thing.box, None if thing.iscrowd else thing.track)


def _repeated_annotations(parsed: ParsedFile) -> dict[int, Fault]:
    """{position in the list: what is wrong} of annotations whose id another one has before them."""
    first: dict[Hashable, int] = {}
    faults: dict[int, Fault] = {}
    # In the order of the file: the fault is that of the later annotation, whatever frames the two are in.
    things = (thing for video in parsed.videos for frame in video.frames.values() for thing in frame.objects)
    for thing in sorted(things, key=lambda thing: thing.annotation):
        # The loader needs no ids of annotations of images, so one that is missing is no fault.
        if not isinstance(thing.id, int | float | str):
            continue
        # An annotation of YouTube-VIS has an object in each of its frames, all with its id.
        before = first.setdefault(thing.id, thing.annotation)
        if before != thing.annotation:
            place = thing.place._replace(entry=f"annotations[{thing.annotation}]")
            expected = f"each id once; annotations[{before}] has it too"
            faults[thing.annotation] = Fault.at(place, f"id is {thing.id!r:.80}", expected, "duplicate_line")
    return faults


def _repeated_names(parsed: ParsedFile, path: str) -> Iterator[Finding]:
    """Categories of one name, which a loader cannot tell apart."""
    for name, count in Counter(parsed.categories.values()).items():
        if count > 1:
            fault = Fault.at(Place(path), f"{count} categories are called {name!r}", "each name once", "duplicate_line")
            yield finding_of(fault)
