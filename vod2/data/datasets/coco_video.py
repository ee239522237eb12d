"""Videos with annotations in one JSON file, of either of two kinds that are told apart by their keys.

COCO-style video: each frame is an image of its own.

    {"videos":      [{"id", "name"}],
     "images":      [{"id", "video_id", "frame_id" (or "frame_index"), "file_name", "height", "width"}],
     "annotations": [{"image_id", "category_id", "bbox": xywh, "instance_id" (or "track_id"), "iscrowd"}],
     "categories":  [{"id", "name"}]}

YouTube-VIS: each object is annotated through its whole video, and there are no "images".

    {"videos":      [{"id", "file_names": [...], "length", "height", "width"}],
     "annotations": [{"id", "video_id", "category_id", "bboxes": [xywh or null for each frame], "iscrowd"}],
     "categories":  [{"id", "name"}]}
"""

import json
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from vod2.data.datasets.common import (
    BoxCheck,
    VideoDataset,
    annotation_dict,
    class_ids,
    keep_listed,
    number,
    read_text,
    register_dataset,
    video_file,
    whole,
    without_list,
)
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.errors import UserError


def register_coco_video(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    **options,
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        json_file, image_root, class_names, options: see `load_coco_video`. Without `class_names`, the metadata gets
            `thing_classes` when the dataset is first used.
    """
    register_dataset(
        name,
        lambda: load_coco_video(json_file, image_root, class_names, **options),
        class_names,
        video_json=str(json_file),
        image_root=None if image_root is None else str(image_root),
        frame_annotations=LoadedAnnotations(
            load_coco_video,
            {"json_file": json_file, "image_root": image_root, "class_names": class_names} | without_list(options),
        ),
        check_source={
            "format": "coco_video",
            "path": str(json_file),
            "image_root": image_root,
            "class_names": class_names,
            **options,
        },
    )


def load_coco_video(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    first_frame: int = 0,
    list_file: str | os.PathLike | None = None,
    group_keys: Sequence[str] = (),
) -> VideoDataset:
    """Read a JSON file of either kind, told apart by its keys (see the module).

    Args:
        json_file: the annotations; packed, if its name ends in .gz.
        image_root: folder that the file names are relative to; None for that of `json_file`.
        class_names: names of the categories to keep, by category id; None for all, in the order of their ids.
        video_root: take the frames from video files, <video_root>/<name of the video><video_suffix>, rather than
            from images. A video without a name goes by the folder of its frames, or else by its id.
        video_suffix: of the video files.
        first_frame: what "frame_id" counts from, 0 or 1.
        list_file: JSON list of the image ids to take; None for all.
        group_keys: keys of videos and images, such as "weather", whose values name groups that a frame belongs to.

    Returns:
        The dicts, one for each image, or each frame of a YouTube-VIS video, video after video; and the class names.
        With `group_keys` each has `groups`, names in lower case, those of its video before its own. Boxes are clipped
        to the image, those without area dropped, and a warning counts both. `track_id` is absent where a COCO-style
        annotation has none. Without "annotations" in the JSON (a test set), the dicts have none.

    Raises:
        UserError: the file is missing or not as above; names the file, the entry and the value.
    """
    loaded = _Reader(json_file, image_root, class_names, video_root, video_suffix, first_frame, group_keys).load()
    return loaded._replace(dicts=keep_listed(loaded.dicts, list_file))


@dataclass
class _Video:
    name: str
    where: str
    entry: dict
    file: str | None
    frames: dict[int, dict] = field(default_factory=dict)  # {frame_index: its dict}
    length: int = 0


class _Reader:
    def __init__(self, json_file, image_root, class_names, video_root, video_suffix, first_frame, group_keys) -> None:
        self._file = json_file
        self._root = os.path.dirname(os.path.abspath(json_file)) if image_root is None else os.fspath(image_root)
        self._class_names = class_names
        self._video_root, self._suffix = video_root, video_suffix
        self._first, self._group_keys = first_frame, tuple(group_keys)
        self._boxes = BoxCheck()

    def load(self) -> VideoDataset:
        self._data = self._parse()
        categories, class_names = self._categories()
        videos = self._videos()
        self._annotated = self._data.get("annotations") is not None
        if self._data.get("images"):
            images = self._frames_of_images(videos)
            if self._annotated:
                self._annotate_images(images, categories)
        else:
            self._frames_of_videos(videos)
            if self._annotated:
                self._annotate_videos(videos, categories)
        self._boxes.warn()
        dicts = [
            {**video.frames[index], "video_length": video.length}
            for video in videos.values()
            for index in sorted(video.frames)
        ]
        if not dicts:
            raise UserError(f"{self._file}: expected frames, found none: check that it is the right file")
        return VideoDataset(dicts, class_names)

    def _parse(self) -> dict:
        try:
            data = json.loads(read_text(self._file, "the JSON of a dataset"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._file}: broken JSON ({error}): fix the file") from error
        if not isinstance(data, dict):
            raise UserError(f"{self._file}: expected an object with 'videos' and 'categories', found {data!r:.80}")
        return data

    def _entries(self, key: str) -> Iterator[tuple[dict, str]]:
        """The objects of a list, each with a text that says where it stands."""
        entries = self._data.get(key)
        if not isinstance(entries, list):
            raise UserError(f"{self._file}: {key!r} is {entries!r:.80}, expected a list: check the file's format")
        for position, entry in enumerate(entries):
            where = f"{self._file}: {key}[{position}]"
            if not isinstance(entry, dict):
                raise UserError(f"{where} is {entry!r:.80}, expected an object: fix the file")
            yield entry, where

    def _categories(self) -> tuple[dict[Hashable, int], list[str]]:
        """{id in the file: category id} of those to keep, and their names."""
        names: dict[Hashable, str] = {}
        for entry, where in self._entries("categories"):
            names[_new_id(entry, names, where)] = _text(entry, "name", where)
        if self._class_names is None:
            # Ids that are texts cannot be compared with those that are numbers.
            kept = sorted(names, key=lambda key: (isinstance(key, str), key))
            ids = class_ids([names[key] for key in kept], f"{self._file}: the names of the categories")
        else:
            ids = class_ids(self._class_names, "class_names")
            unknown = set(ids) - set(names.values())
            if unknown:
                raise UserError(
                    f"{self._file}: class {min(unknown)!r} is not among its categories, which are "
                    f"{', '.join(names.values())}: fix class_names"
                )
        self._dropped = {key for key, category in names.items() if category not in ids}
        return {key: ids[category] for key, category in names.items() if category in ids}, list(ids)

    def _videos(self) -> dict[Hashable, _Video]:
        videos: dict[Hashable, _Video] = {}
        names: set[str] = set()
        for entry, where in self._entries("videos"):
            key = _new_id(entry, videos, where)
            name = _text(entry, "name", where) if "name" in entry else _folder(entry) or str(key)
            if name in names:
                raise UserError(f"{where}: another video is called {name!r}, too: give each its own name")
            names.add(name)
            file = None if self._video_root is None else video_file(self._video_root, name, self._suffix)
            videos[key] = _Video(name, where, entry, file)
        return videos

    def _add_frame(self, video: _Video, index: int, image: dict, file_name: object, where: str) -> dict:
        if index in video.frames:
            raise UserError(f"{where}: video {video.name!r} has another frame {index}: fix the file")
        size = [image[side] if side in image else video.entry.get(side) for side in ("height", "width")]
        record = {
            "image_id": f"{video.name}/{index:06d}",
            "height": whole(size[0], f"{where}: height", 1),
            "width": whole(size[1], f"{where}: width", 1),
            "video_id": video.name,
            "frame_index": index,
        }
        if video.file is not None:
            record["video_file"] = video.file
        elif isinstance(file_name, str) and file_name:
            record["file_name"] = os.path.join(self._root, file_name)
        else:
            raise UserError(f"{where}: file name {file_name!r:.80}, expected a text: fix the file")
        if self._group_keys:
            record["groups"] = self._groups(video.entry, video.where) + self._groups(image, where)
        if self._annotated:
            record["annotations"] = []
        video.frames[index] = record
        return record

    def _groups(self, entry: dict, where: str) -> tuple[str, ...]:
        """The groups that an entry names; none where it lacks a key or has null there."""
        names = [(key, entry[key]) for key in self._group_keys if entry.get(key) is not None]
        for key, name in names:
            if not isinstance(name, str) or not name:
                raise UserError(f"{where}: {key} is {name!r:.80}, expected the name of a group: fix it or group_keys")
        return tuple(name.lower() for _, name in names)

    def _frames_of_images(self, videos: dict[Hashable, _Video]) -> dict[Hashable, dict]:
        """Fill in the frames of the videos; returns {image id: dict}."""
        images: dict[Hashable, dict] = {}
        for entry, where in self._entries("images"):
            video = _lookup(videos, entry, "video_id", where)
            frame = entry["frame_id"] if "frame_id" in entry else entry.get("frame_index")
            index = whole(frame, f"{where}: frame_id", self._first) - self._first
            key = _new_id(entry, images, where)
            images[key] = self._add_frame(video, index, entry, entry.get("file_name"), where)
        for video in videos.values():
            length = whole(video.entry["length"], f"{video.where}: length") if "length" in video.entry else 0
            video.length = max(length, max(video.frames, default=-1) + 1)
        return images

    def _annotate_images(self, images: dict[Hashable, dict], categories: dict[Hashable, int]) -> None:
        for entry, where in self._entries("annotations"):
            image = _lookup(images, entry, "image_id", where)
            track = entry.get("instance_id", entry.get("track_id"))
            track = None if track is None else whole(track, f"{where}: instance_id")
            self._add_box(image, entry.get("bbox"), track, entry, categories, f"{where}: bbox")

    def _frames_of_videos(self, videos: dict[Hashable, _Video]) -> None:
        for video in videos.values():
            names = video.entry.get("file_names")
            if isinstance(names, list):
                video.length = len(names)
            elif video.file is not None:
                video.length = whole(video.entry.get("length"), f"{video.where}: length", 0)
                names = [None] * video.length
            else:
                raise UserError(
                    f"{video.where}: file_names is {names!r:.80}, expected a list, as the file has no 'images': check "
                    "the file's format"
                )
            for index, file_name in enumerate(names):
                self._add_frame(video, index, {}, file_name, f"{video.where}: frame {index}")

    def _annotate_videos(self, videos: dict[Hashable, _Video], categories: dict[Hashable, int]) -> None:
        for entry, where in self._entries("annotations"):
            video = _lookup(videos, entry, "video_id", where)
            track = whole(entry.get("id"), f"{where}: id")
            boxes = entry.get("bboxes")
            if not isinstance(boxes, list) or len(boxes) != video.length:
                found = f"{len(boxes)} boxes" if isinstance(boxes, list) else f"{boxes!r:.80}"
                raise UserError(
                    f"{where}: bboxes has {found}, expected one box or null for each of the {video.length} frames of "
                    f"video {video.name!r}: fix the file"
                )
            for index, box in enumerate(boxes):
                if box is not None:
                    self._add_box(video.frames[index], box, track, entry, categories, f"{where}: bboxes[{index}]")

    def _add_box(
        self, record: dict, box: object, track: int | None, entry: dict, categories: dict[Hashable, int], where: str
    ) -> None:
        key = entry.get("category_id")
        if not isinstance(key, Hashable) or key not in categories:
            if isinstance(key, Hashable) and key in self._dropped:
                return
            raise UserError(f"{where}: category_id {key!r:.80} is not among the categories: fix the file")
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(f"{where} is {box!r:.80}, expected [x, y, width, height]: fix the file")
        x, y, width, height = (number(side, where) for side in box)
        clipped = self._boxes.clip((x, y, x + width, y + height), record["height"], record["width"], where)
        if clipped is not None:
            occluded, iscrowd = (int(bool(entry.get(flag))) for flag in ("occluded", "iscrowd"))
            record["annotations"].append(annotation_dict(clipped, categories[key], track, occluded, iscrowd))


def _new_id(entry: dict, taken: dict, where: str) -> Hashable:
    key = entry.get("id")
    if not isinstance(key, int | float | str):
        raise UserError(f"{where}: id is {key!r:.80}, expected a number or a text: fix the file")
    if key in taken:
        raise UserError(f"{where}: another entry has the id {key!r:.80}, too: fix the file")
    return key


def _lookup(table: dict, entry: dict, key: str, where: str):
    value = entry.get(key)
    if not isinstance(value, Hashable) or value not in table:
        raise UserError(f"{where}: {key} is {value!r:.80}, which is not in the file: fix the file")
    return table[value]


def _text(entry: dict, key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {key} is {value!r:.80}, expected a text: fix the file")
    return value


def _folder(video: dict) -> str:
    """The folder of a video's frames, which names it."""
    names = video.get("file_names")
    first = names[0] if isinstance(names, list) and names else ""
    return os.path.dirname(first) if isinstance(first, str) else ""
