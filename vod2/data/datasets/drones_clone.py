"""From a clone of the Drone Detection Dataset's repository to its data sets.

<clone>/Data/Video_IR/IR_DRONE_001.mp4, IR_DRONE_001_LABELS.mat ...
<clone>/Data/Video_V/V_DRONE_001.mp4, V_DRONE_001_LABELS.mat ...
<clone>/Data/Video_dataset_description.xlsx        the distance bin of each clip
"""

import gzip
import itertools
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vod2.atomic import replacing
from vod2.bounded import parse_xml, read_member
from vod2.data.datasets.drones import DRONE_CLASSES, DRONE_SENSORS, DRONE_SPLITS
from vod2.data.datasets.matlab import read_video_labels
from vod2.data.datasets.track_linking import link_tracks
from vod2.errors import UserError
from vod2.video import VideoReader

logger = logging.getLogger(__name__)

_TRAIN_SHARE = 0.75  # of the clips of a class, those of the lowest numbers
_LABELS = "_LABELS.mat"
_DESCRIPTION = "Video_dataset_description.xlsx"
_DISTANCES = {"CLOSE", "MEDIUM", "DISTANT"}
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


class Clip(NamedTuple):
    """A clip: its name (such as IR_DRONE_001), the class it is of, its number within that, and its files."""

    name: str
    category: str
    number: int
    video: Path
    labels: Path


def prepare_drones(
    clone: str | os.PathLike,
    output: str | os.PathLike,
    sensors: Sequence[str] = tuple(DRONE_SENSORS),
    copy_videos: bool = False,
    skip_missing: bool = False,
) -> list[Path]:
    """Write <output>/drones_<sensor> for each sensor, as `vod2.data.datasets.drones` reads it.

    Within a class, clips count in the order of their numbers, of which neighbours are often pieces of one shot: the
    first three quarters (rounded) are for training, the rest is held out. Boxes are the published ones less the 1 that
    MATLAB's pixels begin with. Their identities are linked (`link_tracks`). A split that is there already is kept, so
    that an interrupted run can be repeated; the clone is not changed.

    Args:
        clone: the clone, or its folder Data.
        output: folder of datasets.
        sensors: of `DRONE_SENSORS`.
        copy_videos: copy the videos; else `videos` is a link to their folder.
        skip_missing: leave out clips without a video or without labels; the split of the others stays as it is.

    Returns:
        The files that were written.

    Raises:
        UserError: SciPy is not installed; a folder, a video or labels are missing, broken or do not fit each other.
    """
    data = Path(clone, "Data") if Path(clone, "Data").is_dir() else Path(clone)
    clips_of_sensor = {sensor: find_clips(data / f"Video_{DRONE_SENSORS[sensor]}") for sensor in sensors}
    # Of all sensors before anything is written: a file that is missing shows at once.
    for sensor, parts in clips_of_sensor.items():
        clips_of_sensor[sensor] = _complete_clips(parts, skip_missing)
    distances = read_distances(data / _DESCRIPTION)
    written = []
    for sensor, parts in clips_of_sensor.items():
        root = Path(output, f"drones_{sensor}")
        _place_videos(data / f"Video_{DRONE_SENSORS[sensor]}", root / "videos", parts, copy_videos)
        for split, clips in parts.items():
            path = root / f"{split}.json.gz"
            if path.exists():
                logger.warning("%s is there already: kept", path)
                continue
            _write(path, clips, distances)
            written.append(path)
    return written


def find_clips(folder: Path) -> dict[str, list[Clip]]:
    """The clips of a sensor by split, those that lack a file included.

    Raises:
        UserError: there is no such folder, or it has no clip.
    """
    pattern = re.compile(r"([A-Z]+_([A-Z]+)_(\d+))(?:_LABELS\.mat|\.mp4)")
    names: dict[str, tuple[str, int]] = {}  # {name of a clip: its category and number}
    # A clip is known by either of its files, so that one that is missing can be reported.
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:  # twice for a clip that has both files
            names[match[1]] = match[2], int(match[3])
    if not names:
        raise UserError(
            f"{folder}: expected clips such as IR_DRONE_001.mp4 with IR_DRONE_001{_LABELS}, found none: give a clone "
            "of github.com/DroneDetectionThesis/Drone-detection-dataset"
        )
    unknown = sorted({category for category, _ in names.values()} - {name.upper() for name in DRONE_CLASSES})
    if unknown:
        raise UserError(f"{folder}: has clips of {unknown[0]}, expected {', '.join(DRONE_CLASSES)}: take them out")
    splits: dict[str, list[Clip]] = {split: [] for split in DRONE_SPLITS}
    for category in DRONE_CLASSES:
        clips = []
        for name, (category_of_clip, number) in names.items():
            if category_of_clip == category.upper():
                clips.append(Clip(name, category, number, folder / f"{name}.mp4", folder / f"{name}{_LABELS}"))
        clips.sort(key=lambda clip: clip.number)
        # Half up; Python's round goes to the even number.
        boundary = int(_TRAIN_SHARE * len(clips) + 0.5)
        splits["train"] += clips[:boundary]
        splits["val"] += clips[boundary:]
    return splits


def read_distances(path: Path) -> dict[str, str]:
    """{name of a clip: "close", "medium" or "distant"} from the published description of the clips.

    Its authors put the borders where the target is 15 and 5 pixels wide in the infrared image. The boxes are drawn
    wider than that, so it is their word for a clip that counts, not the size of its boxes.

    Raises:
        UserError: the file is there, but is no such table. Where it is missing, that is a warning.
    """
    if not path.is_file():
        logger.warning("%s is missing: the frames get no distance", path)
        return {}
    try:
        headers, *rows = _sheet_rows(path)  # {column: title}, then {column: value}
        distances = {}
        for cells in rows:
            row = {title: cells.get(column, "") for column, title in headers.items()}
            if row["DISTANCE BIN"] not in _DISTANCES:
                raise ValueError(f"distance {row['DISTANCE BIN']!r}")
            distances[f"{row['SENSOR']}_{row['CLASS']}_{int(row['NUMBER']):03d}"] = row["DISTANCE BIN"].lower()
        return distances
    except (OSError, zipfile.BadZipFile, NotImplementedError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not the table of clips that it should be ({error}): get the file again") from error


def _sheet_rows(path: Path) -> list[dict[str, str]]:
    """The first sheet of a workbook: for each row that has values {column, such as "A": value}."""
    with zipfile.ZipFile(path) as workbook:
        packed = path.stat().st_size
        strings = parse_xml(read_member(workbook, "xl/sharedStrings.xml", packed))
        sheet = parse_xml(read_member(workbook, "xl/worksheets/sheet1.xml", packed))
    texts = ["".join(part.text or "" for part in entry.iter(f"{_SHEET}t")) for entry in strings]
    rows = []
    for row in sheet.iter(f"{_SHEET}row"):
        cells = {}
        for cell in row.iter(f"{_SHEET}c"):
            value = cell.find(f"{_SHEET}v")
            if value is not None:
                content = value.text or ""
                # The value of a cell of type s is the number of a shared text.
                text = texts[int(content)] if cell.get("t") == "s" else content
                place = cell.get("r")
                if place is None:
                    raise ValueError("a cell without a place")
                # Empty cells are left out of the file, so only its place, such as A5, tells the column of a cell.
                cells[place.rstrip("0123456789")] = " ".join(text.split())
        if cells:
            rows.append(cells)
    return rows


def _complete_clips(splits: dict[str, list[Clip]], skip_missing: bool) -> dict[str, list[Clip]]:
    """The clips that have both files."""
    missing = []
    for clip in itertools.chain.from_iterable(splits.values()):
        missing += [path for path in (clip.video, clip.labels) if not path.is_file()]
    if missing and not skip_missing:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} files in all): complete the clone, or leave such clips out with "
            "--skip-missing"
        )
    for path in missing:
        logger.warning("%s is missing: its clip is left out", path)
    complete_clips = {}
    for split, clips in splits.items():
        complete_clips[split] = [clip for clip in clips if clip.video not in missing and clip.labels not in missing]
    return complete_clips


def _place_videos(source: Path, target: Path, splits: dict[str, list[Clip]], copy: bool) -> None:
    # A link by default, as the videos are large and are only read.
    if not copy:
        if target.is_dir():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(source.resolve(), target_is_directory=True)
        except OSError as error:
            raise UserError(f"{target}: no link can be made ({error.strerror}): use --copy-videos") from error
        return
    if target.is_symlink():
        raise UserError(f"{target} is a link: remove it to have the videos copied")
    for clip in itertools.chain.from_iterable(splits.values()):
        if not (target / clip.video.name).exists():
            with replacing(target / clip.video.name) as temporary:
                shutil.copyfile(clip.video, temporary)


def _write(path: Path, clips: Sequence[Clip], distances: dict[str, str]) -> None:
    data: dict = {
        "info": {"description": "Drone Detection Dataset, CC0; boxes from 0; instance_id is linked, not annotated"},
        "categories": [{"id": number, "name": name} for number, name in enumerate(DRONE_CLASSES, start=1)],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    for clip in tqdm(clips, desc=f"{path.parent.name} {path.name.split('.')[0]}", unit="clip", disable=None):
        _add_clip(data, clip, distances.get(clip.name))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        # Without a name and a time in it, the same data is the same file.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            packed.write(json.dumps(data, allow_nan=False, separators=(",", ":")).encode())


def _add_clip(data: dict, clip: Clip, distance: str | None) -> None:
    frames = _boxes_of_frames(clip)
    reader = VideoReader(clip.video)
    if reader.frame_count() != len(frames):
        raise UserError(
            f"{clip.labels}: labels of {len(frames)} frames, but {clip.video.name} has {reader.frame_count()}: get "
            "both files again"
        )
    width, height = reader.size
    video = {"id": len(data["videos"]) + 1, "name": clip.name, "length": len(frames)}
    data["videos"].append(video if distance is None else video | {"distance": distance})
    corners = [np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) for boxes, _ in frames]
    tracks = link_tracks(corners, [labels for _, labels in frames])
    for index, ((boxes, labels), numbers) in enumerate(zip(frames, tracks, strict=True)):
        # Ids count from 1: to pycocotools an annotation of the id 0 is no match.
        image = {"id": len(data["images"]) + 1, "video_id": video["id"], "frame_id": index}
        data["images"].append(image | {"width": width, "height": height})
        # Hundredths of a pixel are finer than anybody draws, and keep the file small.
        for box, label, number in zip(boxes.round(2).tolist(), labels.tolist(), numbers.tolist(), strict=True):
            entry = {"id": len(data["annotations"]) + 1, "image_id": image["id"], "category_id": label + 1}
            data["annotations"].append(entry | {"instance_id": number, "bbox": box, "iscrowd": 0})


def _boxes_of_frames(clip: Clip) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each frame the boxes (n, 4) [x, y, width, height] that count from 0, and their classes (n,)."""
    ids = {name.upper(): number for number, name in enumerate(DRONE_CLASSES)}
    frames = []
    for boxes_by_label in read_video_labels(clip.labels).frames:
        if unknown := sorted(set(boxes_by_label) - set(ids)):
            raise UserError(f"{clip.labels}: the label {unknown[0]!r} is unknown, expected {', '.join(ids)}")
        # MATLAB's pixels count from 1. The empty arrays stand in where a frame has no label.
        boxes = np.concatenate([np.zeros((0, 4)), *boxes_by_label.values()]) - (1, 1, 0, 0)
        labels = [np.full(len(of_label), ids[name]) for name, of_label in boxes_by_label.items()]
        frames.append((boxes, np.concatenate([np.zeros(0, np.int64), *labels])))
    return frames
