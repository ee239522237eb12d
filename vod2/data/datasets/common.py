"""What the readers of annotations share: lines of text, boxes, dicts, registration.

Boxes are xyxy in pixels of the original image.
"""

import codecs
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vod2.bounded import load_json, unpack_gzip
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data.datasets.faults import Fault, Place, Report
from vod2.data.datasets.readings import content_of
from vod2.errors import UserError

logger = logging.getLogger(__name__)


class VideoDataset(NamedTuple):
    """What a reader returns: video dataset dicts, and the names of the classes by category id."""

    dicts: list[dict]
    class_names: list[str]


def register_dataset(
    name: str, load: Callable[[], VideoDataset], class_names: Sequence[str] | None = None, **metadata: Any
) -> None:
    """Register the dataset `name`; `load` is called when it is used, inside of `reading_once` the first time only.

    `thing_classes` are `class_names`, or where those are None, what `load` returns, from its first call on. It is
    evaluated by VID AP, unless `metadata` has another `evaluator_type`.
    """

    def dicts() -> list[dict]:
        loaded = content_of(load)
        MetadataCatalog.get(name).set(thing_classes=loaded.class_names)
        # Detectron2's conversion for COCO's AP wants the name of a file in every dict. Each is a copy, to which the
        # caller may add keys.
        return [
            ({"file_name": record["video_file"]} if "video_file" in record else {}) | record for record in loaded.dicts
        ]

    DatasetCatalog.register(name, dicts)
    MetadataCatalog.get(name).set(**{"evaluator_type": "vid"} | metadata)
    if class_names is not None:
        MetadataCatalog.get(name).set(thing_classes=list(class_names))


def register_frames(name: str, load: Callable[[], list[dict]], **metadata: Any) -> None:
    """As `register_dataset`, where the classes are known before anything is read: they are among `metadata`.

    Args:
        name: in the DatasetCatalog.
        load: returns video dataset dicts.
        metadata: of the dataset.
    """
    # Copies, to which the caller may add keys.
    DatasetCatalog.register(name, lambda: [dict(record) for record in content_of(load)])
    MetadataCatalog.get(name).set(**metadata)


def require_registered(name: str) -> None:
    """Raises UserError if no dataset of this name is registered; says which are, and how a tool gets to know others."""
    if name not in DatasetCatalog.list():
        known = ", ".join(sorted(DatasetCatalog.list()))
        raise UserError(
            f"dataset {name!r} is not registered: expected one of {known}, or register it first: a tool runs the file "
            "that does with --register FILE.py"
        )


def read_text(path: str | os.PathLike, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; of a name that ends in .gz, unpacked.

    Raises:
        Fault: it cannot be read, or is no such text; names the file and `what` it should be.
    """
    try:
        content = Path(path).read_bytes()
        content = unpack_gzip(content) if Path(path).suffix == ".gz" else content
        return content.decode(_encoding_of(content))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        kind = "missing_annotation" if isinstance(error, FileNotFoundError) else "broken_annotation"
        value, remedy = f"{what} cannot be read ({reason})", "fix the file or give another one"
        raise Fault.at(Place(path), value, "a text in UTF-8", kind, remedy) from error


def read_json(path: str | os.PathLike, what: str, expected: str) -> Any:
    """The content of a JSON file, packed if its name ends in .gz.

    Args:
        path: the file.
        what: it should be, and `expected`, what it should hold, for messages.

    Raises:
        Fault: it cannot be read, or is no JSON.
    """
    try:
        return load_json(read_text(path, what))
    except ValueError as error:
        reason = error if os.path.getsize(path) else "an empty file"
        raise Fault.at(Place(path), f"broken JSON ({reason})", expected) from error


def lines_of(path: str | os.PathLike, what: str, report: Report) -> list[str]:
    """The lines of a text in UTF-8; what is not UTF-8 comes as U+FFFD, so that only its own line is wrong.

    A file that cannot be read is a fault, and has no lines.

    Args:
        path: the file.
        what: it should be, for messages.
        report: takes the faults.
    """
    try:
        content = Path(path).read_bytes()
        return content.decode(_encoding_of(content), errors="replace").splitlines()
    except OSError as error:
        kind = "missing_annotation" if isinstance(error, FileNotFoundError) else "broken_annotation"
        value = f"{what} cannot be read ({error.strerror or error})"
        report(Fault.at(Place(path), value, "a text in UTF-8", kind, "complete the dataset"))
        return []


def _encoding_of(content: bytes) -> str:
    """UTF-8, but UTF-16 where a byte order mark says so: PowerShell writes it with `>`."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def fields_of(
    path: str | os.PathLike, what: str, expected: str, counts: Collection[int], report: Report, separator: str | None
) -> Iterator[tuple[Place, list[str]]]:
    """The lines of a table, each with its place and cut into fields. Blank lines do not count.

    Args:
        path, what, report: see `lines_of`.
        expected: what a line should look like, for messages.
        counts: how many fields it may have; another number is a fault.
        separator: of the fields; None for blanks.
    """
    for row, line in enumerate(lines_of(path, what, report), start=1):
        if not line.strip():
            continue
        place, fields = Place(path, row), line.split(separator)
        if len(fields) in counts:
            yield place, fields
        else:
            report(Fault.at(place, f"{line!r:.80}", expected, "bad_line", "fix the line"))


class BoxCheck:
    """Clips boxes to their image, drops those without area, and counts both for a warning."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def clip(self, box: Sequence[float], height: int, width: int, file: object) -> list[float] | None:
        """The part of a box inside its image, or None if it has no area.

        Args:
            box: xyxy, perhaps inverted or partly NaN.
            height, width: of the image.
            file: where the box stands, for the warning.
        """
        x1, y1, x2, y2 = box
        right, bottom = float(width), float(height)
        # max and min return their first argument where it is NaN: such a side stays NaN, and `has_area` is false.
        clipped = [
            min(max(x1, 0.0), right),
            min(max(y1, 0.0), bottom),
            min(max(x2, 0.0), right),
            min(max(y2, 0.0), bottom),
        ]
        has_area = clipped[2] > clipped[0] and clipped[3] > clipped[1]
        if not has_area or clipped != [x1, y1, x2, y2]:
            problem = "outside of their image, clipped" if has_area else "without area, dropped"
            self._counts[problem] += 1
            self._examples.setdefault(problem, f"{file}: {tuple(box)} in {width} x {height} pixels")
        return clipped if has_area else None

    def warn(self) -> None:
        """Log one warning for each kind of problem that was met."""
        for problem, count in self._counts.items():
            logger.warning("%d boxes %s; the first is %s", count, problem, self._examples[problem])


def annotation_dict(
    box: Sequence[float], category: int, track: int | None, occluded: int = 0, iscrowd: int = 0
) -> dict:
    """One entry of `annotations`; `track_id` is absent if `track` is None."""
    entry = {
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "iscrowd": iscrowd,
        "occluded": occluded,
    }
    return entry if track is None else entry | {"track_id": track}


def read_image_ids(list_file: str | os.PathLike | None) -> frozenset[Hashable] | None:
    """The image ids of a JSON list, such as tools/check_dataset.py --fix-list writes; None if there is no list.

    Raises:
        UserError: the file is missing, or no such list.
    """
    if list_file is None:
        return None
    try:
        return frozenset(load_json(read_text(list_file, "the list of images")))
    # TypeError: JSON of which no set can be made, as of a number or of lists.
    except (ValueError, TypeError) as error:
        raise UserError(f"{list_file}: expected a JSON list of image ids ({error}): give another one") from error


def keep_listed(dicts: list[dict], list_file: str | os.PathLike | None) -> list[dict]:
    """The dicts whose image_id is in the list (see `read_image_ids`); all if there is none.

    Raises:
        UserError: the file is missing or no such list, or none of the dicts is in it.
    """
    listed = read_image_ids(list_file)
    kept = dicts if listed is None else [record for record in dicts if record["image_id"] in listed]
    # A dataset that was empty before has been reported by its reader.
    if dicts and not kept:
        raise UserError(f"{list_file}: no image of the dataset is in it: give the list of this dataset")
    return kept


def without_list(options: dict) -> dict:
    """The options of a loader for all frames."""
    return {key: value for key, value in options.items() if key not in ("list_file", "key_flag")}


def video_file(video_root: str | os.PathLike, video: str, suffix: str) -> str:
    """The file of a video."""
    return os.path.join(video_root, video + suffix)


def class_ids(class_names: Sequence[str], where: str) -> dict[str, int]:
    """{name: category id}, or a UserError if a name comes twice or there is none."""
    ids = {name: category for category, name in enumerate(class_names)}
    if not ids or len(ids) != len(class_names):
        raise UserError(f"{where} are {', '.join(map(repr, class_names)) or 'none'}, expected names, each once")
    return ids
