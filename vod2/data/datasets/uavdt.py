"""UAVDT: vehicles seen from a drone, 30 videos to train and 20 to test.

    <root>/UAV-benchmark-M/M####/img000001.jpg ...
    <root>/UAV-benchmark-MOTD_v1.0/GT/M####_gt_whole.txt, M####_gt_ignore.txt       (or in <root>/GT)

A video is named like its folder, such as "M0203". Files count frames from 1, dicts from 0.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vod2.d2 import BoxMode
from vod2.data.datasets.common import keep_listed, lines_of, register_frames
from vod2.data.datasets.faults import Fault, Place, Report, refuse
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.data.datasets.ilsvrc import require_folder
from vod2.errors import UserError

logger = logging.getLogger(__name__)

UAVDT_CLASSES: tuple[str, ...] = ("car", "truck", "bus")

_TRAIN = """M0101 M0201 M0202 M0204 M0206 M0207 M0210 M0301 M0401 M0402 M0501 M0603 M0604 M0605 M0702 M0703 M0704 M0901
    M0902 M1002 M1003 M1005 M1006 M1008 M1102 M1201 M1202 M1304 M1305 M1306"""
_TEST = """M0203 M0205 M0208 M0209 M0403 M0601 M0602 M0606 M0701 M0801 M0802 M1001 M1004 M1007 M1009 M1101 M1301 M1302
    M1303 M1401"""
UAVDT_SEQUENCES: dict[str, tuple[str, ...]] = {"train": tuple(_TRAIN.split()), "test": tuple(_TEST.split())}
"""The official split."""

_IMAGES = "UAV-benchmark-M"
_GROUND_TRUTH = (Path("UAV-benchmark-MOTD_v1.0", "GT"), Path("GT"))
_REMEDY = "see datasets/README.md for how to lay it out"

_COLUMNS = ("frame", "id", "left", "top", "width", "height", "out-of-view", "occlusion", "class")
_BOX = slice(2, 6)  # columns that need not be whole numbers
_FRAME, _TRACK, _OUT_OF_VIEW, _OCCLUSION, _CLASS = (_COLUMNS.index(c) for c in ("frame", "id", *_COLUMNS[6:]))
_RANGES = {_OUT_OF_VIEW: (1, 3), _OCCLUSION: (1, 4)}  # of objects, not ignore regions
_LARGEST = 2**31 - 1


def register_uavdt(name: str, root: str | os.PathLike, split: str, list_file: str | os.PathLike | None = None) -> None:
    """Register the dataset `name`; nothing is read before it is used. Arguments as in `load_uavdt`."""
    register_frames(
        name,
        lambda: load_uavdt(root, split, name=name, list_file=list_file),
        thing_classes=list(UAVDT_CLASSES),
        evaluator_type="uavdt",
        image_root=str(root),
        check_source={"format": "uavdt", "path": str(root), "split": split, "list_file": list_file},
        frame_annotations=LoadedAnnotations(load_uavdt, {"root": str(root), "split": split, "name": name}, "sequences"),
    )


def load_uavdt(
    root: str | os.PathLike,
    split: str,
    sequences: Sequence[str] | None = None,
    name: str = "UAVDT",
    list_file: str | os.PathLike | None = None,
) -> list[dict]:
    """Read all frames of a split as video dataset dicts, video by video in order.

    Boxes are clipped to the image, those without area dropped; a warning counts both.

    Args:
        root: folder with UAV-benchmark-M and the ground truth.
        split: "train" or "test".
        sequences: names of the videos; None for those of the official split.
        name: of the dataset, for messages.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        Dicts as of `load_imagenet_vid`. An annotation has, beside track_id and occluded (0 or 1), two values as they
        stand in the file: out_of_view (1 none of it, 2 a medium, 3 a small part) and occlusion (1 none, 2 a large, 3 a
        medium, 4 a small part). A frame has ignore_regions [[x1, y1, x2, y2]], whose objects are not annotated.

    Raises:
        UserError: a folder, video or file is missing, a line is not as expected, or a frame is missing; names it.
    """
    if sequences is None:
        if split not in UAVDT_SEQUENCES:
            raise UserError(f"split {split!r} of {name} is unknown, expected one of {', '.join(UAVDT_SEQUENCES)}")
        sequences = UAVDT_SEQUENCES[split]
    images, truth = Path(root, _IMAGES), _ground_truth_folder(root, name)
    require_folder(images, name, _REMEDY)
    # All of them at once: whoever completes the download needs the list.
    missing = [sequence for sequence in sequences if not (images / sequence).is_dir()]
    if missing:
        raise UserError(
            f"{images} lacks {len(missing)} of the {len(sequences)} videos of {name}: {', '.join(missing)}: "
            "complete the dataset"
        )
    dicts = [record for sequence in sequences for record in _read_sequence(images / sequence, truth)]
    return keep_listed(dicts, list_file)


def _ground_truth_folder(root: str | os.PathLike, name: str) -> Path:
    folders = [Path(root, folder) for folder in _GROUND_TRUTH]
    # Where there is neither, the message names the place that the archive is unpacked to.
    chosen = next((folder for folder in folders if folder.is_dir()), folders[0])
    require_folder(chosen, name, _REMEDY)
    return chosen


def parse_uavdt_table(
    path: str | os.PathLike,
    report: Report = refuse,
    *,
    attributes: bool = True,
    length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The lines of a ground truth file.

    Args:
        path: lines of nine numbers: frame (from 1), id, left, top, width, height, out-of-view, occlusion, class.
        report: takes the faults; lines with one are left out.
        attributes: check out-of-view and occlusion; they mean nothing in files of ignore regions.
        length: frames of the video, beyond which no line may be; None for any.

    Returns:
        The good lines: (n,) int64, their numbers from 1, and (n, 9) float64.
    """
    lines, table, texts = _numbers_of(path, report)
    ranges = _RANGES if attributes else {}
    good = _is_valid(table, ranges)
    bounds = "".join(f", {_COLUMNS[column]} in {low} to {high}" for column, (low, high) in ranges.items())
    expected = f"frame from 1{bounds}, and no box beyond 2^31 pixels, all whole but the box"
    for line in lines[~good].tolist():
        report(_bad_line(path, line, texts[line], "a value out of range", expected))
    if length is not None:
        # Apart from the other ranges, because here the video is at fault rather than the line.
        beyond = good & (table[:, _FRAME] > length)
        for line, frame in zip(lines[beyond].tolist(), table[beyond, _FRAME].tolist(), strict=True):
            value, expected = f"frame {frame:.0f}", f"1 to {length}"
            report(Fault.at(Place(path, line), value, expected, "video_length", "complete the video"))
        good &= ~beyond
    return lines[good], table[good]


def _numbers_of(path: str | os.PathLike, report: Report) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The lines that have nine numbers: (n,) their numbers from 1, (n, 9) what they say, and {number: text}."""
    rows: dict[int, list[float]] = {}
    texts: dict[int, str] = {}
    for line, text in enumerate(lines_of(path, "the annotations", report), start=1):
        words = text.split(",")
        if not text.strip():
            continue
        if len(words) != len(_COLUMNS):
            problem, expected = f"{len(words)} columns", f"the {len(_COLUMNS)} {','.join(_COLUMNS)}"
            report(_bad_line(path, line, text, problem, expected))
            continue
        try:
            rows[line], texts[line] = [float(word) for word in words], text
        except ValueError:
            report(_bad_line(path, line, text, "not only numbers", ",".join(_COLUMNS)))
    table = np.array(list(rows.values()), np.float64).reshape(-1, len(_COLUMNS))
    return np.array(list(rows), np.int64), table, texts


def _is_valid(table: np.ndarray, ranges: dict[int, tuple[int, int]]) -> np.ndarray:
    """(n,) bool: all values of the row are possible. NaN fails every comparison."""
    whole = np.delete(table, _BOX, axis=1)
    # The bound also rules out what float() makes of "inf", and keeps the numbers within int64.
    valid = (np.abs(table) <= _LARGEST).all(axis=1) & (whole == np.floor(whole)).all(axis=1) & (table[:, _FRAME] >= 1)
    for column, (low, high) in ranges.items():
        valid &= (table[:, column] >= low) & (table[:, column] <= high)
    return valid


def _bad_line(path: str | os.PathLike, line: int, text: str, problem: str, expected: str) -> Fault:
    value = f"{text.strip()[:100]!r} has {problem}"
    return Fault.at(Place(path, line), value, expected, "bad_line", "get the file again")


def _read_sequence(folder: Path, truth: Path) -> list[dict]:
    """The dicts of one video."""
    length = _video_length(folder)
    try:
        # Only the first image is opened, for its size; reading any other checks it against that.
        with Image.open(folder / "img000001.jpg") as image:
            width, height = image.size
    except Exception as error:  # Pillow's, by the place of the damage
        raise UserError(f"{folder / 'img000001.jpg'}: not a readable image ({error}): get the file again") from error
    file = truth / f"{folder.name}_gt_whole.txt"
    objects = _read_objects(file, length)
    regions = _read_regions(truth / f"{folder.name}_gt_ignore.txt")
    # By frame for `_split`; stable, so that the objects of a frame keep the order of the file.
    objects = objects[np.argsort(objects[:, _FRAME], kind="stable")]
    boxes, has_area = _clip_boxes(objects, width, height, file)
    region_boxes, region_has_area = _clip_boxes(regions, width, height, None)
    template = str(folder).replace("%", "%%") + "/img%06d.jpg"  # a percent sign in the folders' names is not a format
    by_frame = _split(list(_annotations(objects[has_area], boxes[has_area])), objects[has_area], length)
    ignored = _split(region_boxes[region_has_area].tolist(), regions[region_has_area], length)
    return [
        {
            "file_name": str(folder / f"img{index + 1:06d}.jpg"),
            "image_id": f"{folder.name}/img{index + 1:06d}",
            "height": height,
            "width": width,
            "video_id": folder.name,
            "frame_index": index,
            "video_length": length,
            "frame_template": template,
            "frame_offset": 1,
            "ignore_regions": ignored[index],
            "annotations": by_frame[index],
        }
        for index in range(length)
    ]


def _read_objects(path: Path, length: int) -> np.ndarray:
    lines, table = parse_uavdt_table(path, length=length)
    # The parser lets unknown classes pass, as the check reports them object by object.
    unknown = (table[:, _CLASS] < 1) | (table[:, _CLASS] > len(UAVDT_CLASSES))
    if unknown.any():
        place, value = Place(path, int(lines[unknown][0])), f"class {table[unknown, _CLASS][0]:.0f} is unknown"
        raise Fault.at(place, value, f"1 to {len(UAVDT_CLASSES)}", "unknown_class", "get the file again")
    return table


def _video_length(folder: Path) -> int:
    """Frames in a video's folder: img000001.jpg, img000002.jpg ... without a gap, at least one."""
    frames = {
        entry.name for entry in os.scandir(folder) if entry.name.startswith("img") and entry.name.endswith(".jpg")
    }
    # At least the first name, so that a folder without images is an error as well.
    names = (f"img{number:06d}.jpg" for number in range(1, max(len(frames), 1) + 1))
    missing = next((name for name in names if name not in frames), None)
    if missing:
        raise UserError(
            f"{folder} holds {len(frames)} frames, but not {missing}: frames should count from img000001.jpg without a "
            "gap: complete the video"
        )
    return len(frames)


def _read_regions(path: Path) -> np.ndarray:
    if not path.is_file():
        logger.warning("%s: no such file; no part of its video is ignored in the evaluation", path)
        return np.empty((0, len(_COLUMNS)))
    _, table = parse_uavdt_table(path, attributes=False)
    return table[np.argsort(table[:, _FRAME], kind="stable")]


def _clip_boxes(table: np.ndarray, width: int, height: int, file: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) xyxy clipped to the image, and which of them (n,) have area left; a warning if a file is given."""
    written = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    boxes = np.clip(written, 0, [width, height, width, height])
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    outside = has_area & (boxes != written).any(axis=1)
    if file is not None and (outside.any() or not has_area.all()):
        logger.warning(
            "%s: %d boxes outside of their image, clipped; %d without area, dropped",
            file,
            outside.sum(),
            (~has_area).sum(),
        )
    return boxes, has_area


def _annotations(table: np.ndarray, boxes: np.ndarray) -> Iterator[dict]:
    rows: list[list[int]] = table.astype(np.int64).tolist()
    for row, box in zip(rows, boxes.tolist(), strict=True):
        yield {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": row[_CLASS] - 1,
            "iscrowd": 0,
            "track_id": row[_TRACK],
            # UAVDT numbers its classes from 1; its occlusion 1 means none.
            "occluded": int(row[_OCCLUSION] > 1),
            "out_of_view": row[_OUT_OF_VIEW],
            "occlusion": row[_OCCLUSION],
        }


def _split(items: list, table: np.ndarray, length: int) -> list[list]:
    """`items`, one for each row of `table` (sorted by frame), as one list for each frame."""
    # Frames count from 1 in the table: the rows of frame t + 1 lie between ends[t] and ends[t + 1].
    ends = np.searchsorted(table[:, _FRAME], np.arange(length + 1), side="right").tolist()
    return [items[start:end] for start, end in zip(ends, ends[1:], strict=False)]
