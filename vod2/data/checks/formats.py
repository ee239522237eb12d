"""The layouts that can be checked, and how one is chosen."""

import os
import zipfile
from collections.abc import Collection, Hashable, Iterator
from typing import Any

from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data.checks.coco import CocoVideo
from vod2.data.checks.findings import ERROR, CheckedFrame, CheckedObject, CheckedVideo, CheckFormat, Finding, write_ids
from vod2.data.checks.ilsvrc import ImageNetDet, ImageNetVid
from vod2.data.checks.labelled import Bdd, Cvat, Epic, LabelStudio, VisDrone
from vod2.data.checks.labels import Mot, Uavdt
from vod2.data.checks.yolo import YoloVideo
from vod2.data.datasets.records import RecordCheck
from vod2.data.datasets.video_index import as_video_dicts, frame_path
from vod2.errors import UserError

# Of two that recognize a file, the first is taken: a JSON file may be any that ends in .json.
_LAYOUTS = (ImageNetVid, ImageNetDet, Uavdt, Mot, YoloVideo, Cvat, LabelStudio, VisDrone, Bdd, Epic, CocoVideo)

FORMATS: dict[str, type[CheckFormat]] = {layout.name: layout for layout in _LAYOUTS}
"""Layouts by the name that --format takes. Constructors take a path and, as keywords, the options of their loader."""


def open_source(source: str, format: str | None = None, **options: Any) -> CheckFormat:
    """What is to be checked.

    Args:
        source: a registered dataset, or the folder or file that holds one.
        format: in `FORMATS`; None for that of the registered dataset, or the first whose layout is there.
        options: of the format's constructor, those that are not None.

    Raises:
        UserError: there is no such dataset, nor folder; the format is unknown, or no layout fits.
    """
    # None is an option that the command line was not given, so the default of the layout holds.
    options = {key: value for key, value in options.items() if value is not None}
    if format is not None and format not in FORMATS:
        raise UserError(f"the format {format!r} is unknown, expected one of {', '.join(FORMATS)}")
    # A registered name comes before a folder of that name; with a format, the folder is meant.
    if format is None and source in DatasetCatalog.list():
        return _open_registered(source, options)
    if not os.path.exists(source):
        names = ", ".join(sorted(DatasetCatalog.list()))
        raise UserError(
            f"{source!r} is neither a folder or file nor a registered dataset, which are {names}: give its path, or "
            "load the file that registers it with --register FILE.py"
        )
    # Where a folder looks like several layouts, the first in FORMATS is taken.
    formats = [FORMATS[format]] if format is not None else [f for f in FORMATS.values() if f.recognizes(source)]
    if not formats and zipfile.is_zipfile(source):
        raise UserError(f"{source}: this is a ZIP archive: unpack it, and give the folder or file that was in it")
    if not formats:
        raise UserError(f"{source}: this is in no known layout: give it with --format {'|'.join(FORMATS)}")
    return _construct(formats[0], source, options)


def _construct(layout: type[CheckFormat], path: str, options: dict) -> CheckFormat:
    unknown = sorted(options.keys() - layout.options)
    if unknown:
        raise UserError(f"the format {layout.name} has no option {', '.join(unknown)}")
    opened = layout(path, **options)  # type: ignore[call-arg]  # every layout has a constructor of its own
    opened.source = path
    return opened


def _open_registered(name: str, options: dict) -> CheckFormat:
    # Loaders stop at the first broken file, so what they were registered with is checked in their stead.
    source = dict(getattr(MetadataCatalog.get(name), "check_source", {"format": ""}))
    layout = FORMATS.get(source.pop("format"))
    if layout is None:
        return RegisteredDataset(name)
    path = source.pop("path")
    return _construct(layout, path, source | options)


class RegisteredDataset(CheckFormat):
    """Any registered dataset, as its function returns it.

    A UserError of that function ends the check, as do fields that are missing or of another kind than they should be.
    """

    name = "registered"

    def __init__(self, path: str) -> None:
        records = DatasetCatalog.get(path)
        fields = RecordCheck(path, None, only_kinds=True)
        for row, record in enumerate(records):
            fields.look_at(row, record)
        if faults := fields.faults():
            raise UserError("; ".join(faults))
        self._dicts = as_video_dicts(records)
        self._ids = [record["image_id"] for record in self._dicts]
        self._source = path
        names = getattr(MetadataCatalog.get(path), "thing_classes", None)
        self.classes = None if names is None else list(names)

    def videos(self) -> Iterator[CheckedVideo]:
        videos: dict[str, list[dict]] = {}
        seen: set[Hashable] = set()
        for record in self._dicts:
            if record["image_id"] in seen:
                yield CheckedVideo(
                    "",
                    findings=[
                        Finding(
                            ERROR,
                            "duplicate_line",
                            _file(record),
                            f"image_id {record['image_id']!r} twice",
                            "each image once",
                            frame=record["frame_index"],
                        )
                    ],
                )
            seen.add(record["image_id"])
            videos.setdefault(record["video_id"], []).append(record)
        for name, records in videos.items():
            yield self._video(name, sorted(records, key=lambda record: record["frame_index"]))

    def _video(self, name: str, records: list[dict]) -> CheckedVideo:
        frames = [self._frame(record) for record in records]
        video = CheckedVideo(name, frames, file=records[0].get("video_file"))
        listed = {frame.index for frame in frames}
        # Frames that are not listed may be supports, so their images have to be there, too.
        if video.file is None and "frame_template" in records[0]:
            unlisted = (index for index in range(records[0]["video_length"]) if index not in listed)
            paths = ((index, frame_path(records[0], index)) for index in unlisted)
            frames += [CheckedFrame(index, path) for index, path in paths if path is not None]
            frames.sort(key=lambda frame: frame.index)
        return video

    def _frame(self, record: dict) -> CheckedFrame:
        objects = []
        for annotation in record.get("annotations", []):
            box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
            category = annotation["category_id"]
            names = self.classes or []
            # A number without a name stays a number, which is in no list of names: the walk reports it.
            name = names[category] if 0 <= category < len(names) else category
            objects.append(CheckedObject(name, tuple(box), annotation.get("track_id")))
        return CheckedFrame(
            record["frame_index"],
            _file(record),
            _file(record),
            objects,
            (record["height"], record["width"]),
            record["image_id"],
        )

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """A JSON list of image ids."""
        return write_ids(path, self._ids, bad, self._source)


def _file(record: dict) -> str:
    """What a dataset dict takes its pixels from: an image or a video."""
    return record.get("file_name") or record["video_file"]
