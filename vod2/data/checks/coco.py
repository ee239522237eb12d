"""Annotations of videos in one JSON file, COCO-style or YouTube-VIS, entry by entry, for the check of a dataset."""

import json
import math
import os
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path

from vod2.data.checks.findings import (
    ERROR,
    CheckedFrame,
    CheckedObject,
    CheckedVideo,
    CheckFormat,
    Finding,
    write_ids,
)
from vod2.data.datasets.common import read_image_ids, read_text, video_file
from vod2.errors import UserError

_VIDEO = "the id of an entry of 'videos'"


class CocoVideo(CheckFormat):
    """A JSON file of either kind; arguments as of `load_coco_video`."""

    name = "coco_video"
    options = frozenset(
        {"image_root", "class_names", "video_root", "video_suffix", "first_frame", "list_file", "group_keys"}
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
        group_keys: Sequence[str] = (),  # groups are names, of which none can be wrong
    ) -> None:
        self._listed = read_image_ids(list_file)
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file, expected the JSON of a dataset")
        self._path = str(path)
        self._root = Path(path).parent if image_root is None else Path(image_root)
        self._kept = class_names
        self._video_root, self._suffix, self._first = video_root, video_suffix, first_frame
        self._ids: list[Hashable] = []

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path).is_file() and Path(path).name.endswith((".json", ".json.gz"))

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids, self._problems = [], []
        try:
            self._data = json.loads(read_text(self._path, "the JSON"))
            if not isinstance(self._data, dict):
                raise ValueError(f"{self._data!r:.60}")
        except (UserError, ValueError, RecursionError) as error:
            value = "an empty file" if not os.path.getsize(self._path) else str(error)
            finding = Finding(ERROR, "broken_annotation", self._path, value, "JSON with videos and categories")
            yield CheckedVideo("", findings=[finding])
            return
        self._categories = {key: str(entry.get("name")) for key, entry in self._by_id("categories").items()}
        self.classes = list(self._categories.values())
        videos = self._read_videos()
        if self._data.get("images"):
            self._read_images(videos)
        else:
            self._read_tracks(videos)
        left_out = {frame.entry for video in videos.values() for frame in video.frames if not self._is_listed(frame)}
        yield CheckedVideo("", findings=[found for found in self._problems if left_out.isdisjoint(found.entries)])
        for video in videos.values():
            video.frames = [frame for frame in video.frames if self._is_listed(frame)]
            video.frames.sort(key=lambda frame: frame.index)
            self._ids += [frame.entry for frame in video.frames]
            yield video

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """A JSON list of image ids, `<name of the video>/<frame, six digits>`."""
        return write_ids(path, self._ids, bad, self._path)

    def _is_listed(self, frame: CheckedFrame) -> bool:
        return self._listed is None or frame.entry in self._listed

    def _problem(self, kind: str, where: str, value: object, expected: str, frame: CheckedFrame | None = None) -> None:
        value = f"{where}: {value!r:.80}"
        if frame is None:
            self._problems.append(Finding(ERROR, kind, self._path, value, expected))
        else:
            self._problems.append(frame.finding(ERROR, kind, self._path, value, expected))

    def _entries(self, key: str) -> Iterator[tuple[str, dict]]:
        """(where it stands, entry) of those that are objects."""
        entries = self._data.get(key, [])
        if not isinstance(entries, list):
            self._problem("broken_annotation", key, entries, "a list")
            entries = []
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                yield f"{key}[{position}]", entry
            else:
                self._problem("broken_annotation", f"{key}[{position}]", entry, "an object")

    def _by_id(self, key: str) -> dict[Hashable, dict]:
        """{id: entry} of a list, the first of those that share one; the entry's place is under "where"."""
        table: dict[Hashable, dict] = {}
        for where, entry in self._entries(key):
            name = entry.get("id")
            if not isinstance(name, int | float | str):
                self._problem("broken_annotation", f"{where}: id", name, "a number or a text")
            elif name in table:
                self._problem(
                    "duplicate_line", f"{where}: id", name, f"each id once; {table[name]['where']} has it too"
                )
            else:
                table[name] = {**entry, "where": where}
        return table

    def _read_videos(self) -> dict[Hashable, CheckedVideo]:
        self._video_entries = self._by_id("videos")
        videos = {}
        names: set[str] = set()
        for key, entry in self._video_entries.items():
            files = entry.get("file_names")
            folder = os.path.dirname(str(files[0])) if isinstance(files, list) and files else ""
            name = str(entry.get("name") or folder or key)
            if name in names:
                self._problem("duplicate_line", f"{entry['where']}: name", name, "each video with its own name")
            names.add(name)
            file = None if self._video_root is None else video_file(self._video_root, name, self._suffix)
            videos[key] = CheckedVideo(name, file=file)
        return videos

    def _add_frame(
        self, video: CheckedVideo, index: int, entry: dict, file_name: object, video_entry: dict, where: str
    ) -> CheckedFrame | None:
        if video.file is None and (not isinstance(file_name, str) or not file_name):
            self._problem("broken_annotation", f"{where}: file name", file_name, "a text")
            return None
        image = video.file or os.path.join(self._root, file_name)
        frame = CheckedFrame(index, image, self._path, entry=f"{video.name}/{index:06d}")
        size = [entry.get(side, video_entry.get(side)) for side in ("height", "width")]
        if all(_is_whole(side) and side > 0 for side in size):
            frame.size = (int(size[0]), int(size[1]))
        else:
            self._problem("broken_annotation", f"{where}: height, width", size, "two numbers above 0", frame)
        video.frames.append(frame)
        return frame

    def _read_images(self, videos: dict[Hashable, CheckedVideo]) -> None:
        frames: dict[Hashable, CheckedFrame] = {}
        seen: dict[Hashable, str] = {}
        for key, entry in self._by_id("images").items():
            where = entry["where"]
            video = _get(videos, entry.get("video_id"))
            if video is None:
                self._problem("broken_annotation", f"{where}: video_id", entry.get("video_id"), _VIDEO)
                continue
            number = entry.get("frame_id", entry.get("frame_index"))
            if not _is_whole(number) or number < self._first:
                expected = f"a whole number of at least {self._first}"
                self._problem("broken_annotation", f"{where}: frame_id", number, expected)
                continue
            index = int(number) - self._first
            if (video.name, index) in seen:
                expected = f"each frame once; {seen[video.name, index]} is the same of video {video.name}"
                self._problem("duplicate_line", f"{where}: frame_id", number, expected)
                continue
            seen[video.name, index] = where
            video_entry = self._video_entries[entry["video_id"]]
            frame = self._add_frame(video, index, entry, entry.get("file_name"), video_entry, where)
            if frame is not None:
                frames[key] = frame
        for entry in self._annotations(need_ids=False):
            frame = _get(frames, entry.get("image_id"))
            if frame is None:
                expected = "the id of a good entry of 'images'"
                self._problem("broken_annotation", f"{entry['where']}: image_id", entry.get("image_id"), expected)
            else:
                track = entry.get("instance_id", entry.get("track_id"))
                self._add_object(frame, entry, entry.get("bbox"), track, f"{entry['where']}: bbox")

    def _read_tracks(self, videos: dict[Hashable, CheckedVideo]) -> None:
        for key, video in videos.items():
            entry = self._video_entries[key]
            names = entry.get("file_names")
            if not isinstance(names, list):
                length = entry.get("length")
                if video.file is None or not _is_whole(length):
                    self._problem("broken_annotation", f"{entry['where']}: file_names", names, "a list of names")
                    continue
                names = [None] * int(length)
            for index, name in enumerate(names):
                self._add_frame(video, index, {}, name, entry, f"{entry['where']}: frame {index}")
        frames = {key: {frame.index: frame for frame in video.frames} for key, video in videos.items()}
        for entry in self._annotations(need_ids=True):
            own, boxes = _get(frames, entry.get("video_id")), entry.get("bboxes")
            if own is None:
                self._problem("broken_annotation", f"{entry['where']}: video_id", entry.get("video_id"), _VIDEO)
            elif not isinstance(boxes, list) or len(boxes) != len(own):
                found = len(boxes) if isinstance(boxes, list) else boxes
                self._problem("broken_annotation", f"{entry['where']}: bboxes", found, f"{len(own)} boxes or nulls")
            else:
                for index, box in enumerate(boxes):
                    if box is not None and index in own:
                        self._add_object(own[index], entry, box, entry["id"], f"{entry['where']}: bboxes[{index}]")

    def _annotations(self, need_ids: bool) -> Iterator[dict]:
        """The annotations with their place under "where", the first of those that share an id."""
        seen: dict[Hashable, str] = {}
        for where, entry in self._entries("annotations"):
            key = entry.get("id")
            if isinstance(key, int | float | str):
                if key in seen:
                    self._problem("duplicate_line", f"{where}: id", key, f"each id once; {seen[key]} has it too")
                    continue
                seen[key] = where
            elif need_ids:
                self._problem("broken_annotation", f"{where}: id", key, "a number or a text")
                continue
            yield {**entry, "where": where}

    def _add_object(self, frame: CheckedFrame, entry: dict, box: object, track: object, where: str) -> None:
        category = _get(self._categories, entry.get("category_id"))
        if self._kept is not None and category is not None and category not in self._kept:
            return
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            self._problem("broken_annotation", where, box, "[x, y, width, height]", frame)
            return
        if entry.get("iscrowd") or not isinstance(track, int | float | str):
            track = None
        x, y, width, height = map(float, box)
        name = f"category_id {entry.get('category_id')!r:.40}" if category is None else category
        frame.objects.append(CheckedObject(name, (x, y, x + width, y + height), track))


def _get(table: dict, key: object):
    return table.get(key) if isinstance(key, Hashable) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _is_whole(value: object) -> bool:
    return _is_number(value) and math.isfinite(value) and float(value).is_integer()
