"""What ImageNet VID and DET share: class names, XML annotations, and their cache.

F: files, N: objects of all files together. Boxes are xyxy in pixels of the original image, as they stand in the XML.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from tqdm import tqdm

from vod2 import bounded
from vod2.atomic import replacing
from vod2.data.datasets.common import BoxCheck
from vod2.data.datasets.faults import Fault, Place, number, whole
from vod2.errors import UserError

logger = logging.getLogger(__name__)

VID_WNIDS: dict[str, str] = {
    "n02691156": "airplane",
    "n02419796": "antelope",
    "n02131653": "bear",
    "n02834778": "bicycle",
    "n01503061": "bird",
    "n02924116": "bus",
    "n02958343": "car",
    "n02402425": "cattle",
    "n02084071": "dog",
    "n02121808": "domestic_cat",
    "n02503517": "elephant",
    "n02118333": "fox",
    "n02510455": "giant_panda",
    "n02342885": "hamster",
    "n02374451": "horse",
    "n02129165": "lion",
    "n01674464": "lizard",
    "n02484322": "monkey",
    "n03790512": "motorcycle",
    "n02324045": "rabbit",
    "n02509815": "red_panda",
    "n02411705": "sheep",
    "n01726692": "snake",
    "n02355227": "squirrel",
    "n02129604": "tiger",
    "n04468005": "train",
    "n01662784": "turtle",
    "n04530566": "watercraft",
    "n02062744": "whale",
    "n02391049": "zebra",
}
"""WordNet id -> readable name of the 30 classes, in the order of their category ids."""

VID_CLASSES: tuple[str, ...] = tuple(VID_WNIDS.values())

NO_TRACK = -1
"""Stands in an `AnnotationTable` for the track of an object that has none."""

_FORMAT_VERSION = 2  # of the cache file
_INT32_MAX = 2**31 - 1  # sizes and track ids are kept as int32


def require_folder(folder: str | os.PathLike, dataset: str, remedy: str) -> None:
    """Raise a UserError that names the folder, the dataset and the remedy, unless `folder` is there."""
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no such folder, but the dataset {dataset} needs it: {remedy}, or set DETECTRON2_DATASETS to "
            "the folder that holds the datasets"
        )


def category_ids(class_names: Sequence[str]) -> dict[str, int]:
    """{name in the XML: category id}: the readable names, and the WordNet ids of those that are VID's."""
    ids = {name: category for category, name in enumerate(class_names)}
    return ids | {wnid: ids[name] for wnid, name in VID_WNIDS.items() if name in ids}


class XmlObject(NamedTuple):
    """One <object> of an annotation file; `box` is xyxy as written, `track` None without a <trackid> of at least 0."""

    name: str
    box: tuple[float, float, float, float]
    track: int | None
    occluded: int


def parse_xml(file: str | os.PathLike) -> tuple[int, int, list[XmlObject]]:
    """Height, width and objects of one annotation file.

    Raises:
        Fault: the file is missing or broken, or an element is missing or not a number.
    """
    again = "get the file again"
    content = b""
    try:
        content = Path(file).read_bytes()
        root = bounded.parse_xml(content)
    except FileNotFoundError as error:
        value, remedy = "no such annotation file, though its frame is listed", "complete the dataset"
        raise Fault.at(Place(file), value, "an XML file", "missing_annotation", remedy) from error
    except OSError as error:
        value = f"the annotation cannot be read ({error.strerror})"
        raise Fault.at(Place(file), value, "an XML file", remedy=again) from error
    except ValueError as error:
        reason = error if content else "an empty file"  # or a path that no file can have
        raise Fault.at(Place(file), f"broken XML ({reason})", "an intact XML file", remedy=again) from error
    height, width = (_whole(root, f"size/{side}", file, least=0) for side in ("height", "width"))
    objects = []
    for element in root.iter("object"):
        x1, y1, x2, y2 = (_number(element, f"bndbox/{side}", file) for side in ("xmin", "ymin", "xmax", "ymax"))
        track = _whole(element, "trackid", file) if element.find("trackid") is not None else NO_TRACK
        occluded = _whole(element, "occluded", file) if element.find("occluded") is not None else 0
        name = (element.findtext("name") or "").strip()
        objects.append(XmlObject(name, (x1, y1, x2, y2), None if track < 0 else track, occluded))
    return height, width, objects


def _number(element: ElementTree.Element, tag: str, file: str | os.PathLike) -> float:
    return number(element.findtext(tag), Place(file), f"{tag} of <{element.tag}>")


def _whole(element: ElementTree.Element, tag: str, file: str | os.PathLike, least: int = -_INT32_MAX) -> int:
    return whole(element.findtext(tag), Place(file), f"{tag} of <{element.tag}>", least, _INT32_MAX)


@dataclass
class AnnotationTable:
    """The annotations of F files as arrays, the objects of a file one after the other.

    Args:
        sizes: (F, 2) int32 height and width.
        counts: (F,) int32 objects of each file.
        boxes: (N, 4) float32.
        category: (N,) int16 category ids.
        track: (N,) int32 track ids; `NO_TRACK` where the XML has none.
        occluded: (N,) uint8, 0 or 1.
    """

    sizes: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    category: np.ndarray
    track: np.ndarray
    occluded: np.ndarray

    def require_whole(self, files: int) -> None:
        """Raises ValueError unless the shapes are those of a table of so many files."""
        objects = len(self.boxes) if self.boxes.ndim else 0
        shapes = {"sizes": (files, 2), "counts": (files,), "boxes": (objects, 4)}
        shapes |= {name: (objects,) for name in ("category", "track", "occluded")}
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found.shape != shape or found.dtype.kind not in "iuf":
                raise ValueError(f"{name} is {found.dtype} {found.shape}, expected numbers {shape}")
        if (self.counts < 0).any() or self.counts.sum() != objects:
            raise ValueError(f"counts of {self.counts.sum()} objects, but there are {objects}")


def read_annotations(
    files: Sequence[str],
    categories: dict[str, int],
    ignore_other_classes: bool = False,
    quiet: bool = False,
    stills: bool = False,
) -> AnnotationTable:
    """Parse annotation files. Boxes are clipped to the image, those without area dropped; warnings count both.

    Args:
        files: paths of the XML files.
        categories: {name in the XML: category id}.
        ignore_other_classes: leave out objects whose name is not in `categories`, rather than raise.
        quiet: neither a progress bar nor warnings.
        stills: an object without a track gets its number in its file as one: nothing can be confused with it there.

    Raises:
        UserError: a file is broken, or names a class that is not in `categories`.
    """
    sizes, counts = [], []
    rows: list[tuple] = []
    boxes = BoxCheck()
    # None leaves it to tqdm, which shows no bar where stderr is no terminal.
    for file in tqdm(files, desc="annotations", unit="file", disable=quiet or None):
        height, width, objects = parse_xml(file)
        before = len(rows)
        for number_in_file, thing in enumerate(objects):
            # VID has its own classes only, so another name is a mistake; DET has many more.
            if thing.name not in categories:
                if ignore_other_classes:
                    continue
                raise UserError(f"{file}: class {thing.name!r} is unknown, expected one of {', '.join(categories)}")
            box = boxes.clip(thing.box, height, width, file)
            if box is not None:
                track = thing.track
                if track is None:
                    track = number_in_file if stills else NO_TRACK
                rows.append((*box, categories[thing.name], track, int(thing.occluded > 0)))
        sizes.append((height, width))
        counts.append(len(rows) - before)
    if not quiet:
        boxes.warn()
    # In float64 every track id up to 2^31 is exact; in float32 it would not be.
    columns = np.array(rows, np.float64).reshape(-1, 7)
    return AnnotationTable(
        np.array(sizes, np.int32).reshape(-1, 2),
        np.array(counts, np.int32),
        columns[:, :4].astype(np.float32),
        columns[:, 4].astype(np.int16),
        columns[:, 5].astype(np.int32),
        columns[:, 6].astype(np.uint8),
    )


def cached_annotations(
    root: str | os.PathLike,
    label: str,
    files: Sequence[str],
    categories: dict[str, int],
    read: Callable[[], AnnotationTable],
) -> AnnotationTable:
    """The table that `read` returns, from the cache if it was made of the same files before.

    The cache is one file named after `label`, in <root>/.vod2_cache or, where that cannot be written, in ~/.cache/vod2.
    It is made anew when the list of files, the classes or an annotation folder has changed; a file that is edited in
    place does not change its folder: delete the cache then.
    """
    root = os.path.abspath(root)
    key = _cache_key(root, files, categories)
    # All data sets share the folder at home: the hash of the root keeps them apart.
    name_at_home = f"{label}-{hashlib.sha256(root.encode()).hexdigest()[:12]}.npz"
    # Beside the data first, where all who use it find the cache; data is often mounted read-only.
    places = [Path(root, ".vod2_cache", f"{label}.npz"), Path.home() / ".cache" / "vod2" / name_at_home]
    for place in places:
        table = _load_cache(place, key, len(files))
        if table is not None:
            return table
    table = read()
    for place in places:
        try:
            with replacing(place) as temporary:
                np.savez(temporary, key=np.array(key), **{f.name: getattr(table, f.name) for f in fields(table)})
            logger.info("Wrote the parsed annotations to %s", place)
            return table
        except OSError as error:
            logger.info("Cannot write the parsed annotations to %s (%s)", place, error)
    logger.warning("The parsed annotations of %s could not be cached: they are parsed again at the next start", root)
    return table


def _cache_key(root: str, files: Sequence[str], categories: dict[str, int]) -> str:
    # Every folder's time of change is a cheap sign that a file came, went, or was replaced; the data set as a whole
    # may also have been generated again.
    folders = sorted({os.path.dirname(file) for file in files})
    changed = [os.stat(folder).st_mtime_ns if os.path.isdir(folder) else 0 for folder in folders]
    content = hashlib.sha256()
    for part in (_FORMAT_VERSION, root, list(files), categories, changed):
        content.update(json.dumps(part).encode())
    return content.hexdigest()


def _load_cache(path: Path, key: str, files: int) -> AnnotationTable | None:
    if not path.is_file():
        return None
    try:
        # It has no pickles: a file that somebody else has put there must not run code.
        arrays = bounded.read_npz(path)
        if str(arrays["key"]) != key:
            return None
        table = AnnotationTable(**{field.name: arrays[field.name] for field in fields(AnnotationTable)})
        table.require_whole(files)
        return table
    # A cache that was cut off while it was written is no reason to stop: everything in it can be read again.
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s: the cache is broken (%s), it is built again", path, error)
        return None
