"""Writes synthetic videos and stills in ImageNet's own layout, so that the readers of the real sets read them.

    synthetic.json                                              what the set was made from
    Data/VID/train/ILSVRC2015_VID_train_0000/<video>/000000.JPEG
    Data/VID/val/<video>/000000.JPEG
    Annotations/VID/...                                         mirrors Data, 000000.xml; names are class names
    Annotations/VID/.../<video>/deterioration.json              beside a video's XML: see `read_deterioration`
    Annotations/VID/.../<video>/visibility.json                 where the set records it: see `read_visibility`
    Data/DET/train/SYNTHETIC_DET_train_0000/00000000.JPEG       stills, if the set has any; Annotations/DET alike
    ImageSets/VID/VID_train_15frames.txt                        path 1 frame frames
    ImageSets/VID/VID_val_videos.txt                            path firstid 0 frames
    ImageSets/DET/DET_train_30classes.txt                       path 1

Box edges are written as they are, without ones added or taken away: xmax - xmin is the width, and xmax may equal the
width of the image.
"""

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.etree import ElementTree

import cv2
import numpy as np
from tqdm import tqdm

from vod2.atomic import replacing, write_json
from vod2.bounded import load_json, shown
from vod2.data.synthetic.scene import SPLITS, SyntheticObject
from vod2.errors import UserError
from vod2.image_files import encode_image
from vod2.locking import locked_file

MANIFEST = "synthetic.json"
DETERIORATION_FILE = "deterioration.json"
VISIBILITY_FILE = "visibility.json"

_LOCK = ".writing.lock"
_PARTIAL = ".partial"
_JPEG_QUALITY = 95
_TRAIN_FRAMES = 15  # frames of a training video that the training list names
_VIDEOS_PER_FOLDER = 1000
_STILLS_PER_FOLDER = 100  # made by one job

Frame = tuple[np.ndarray, tuple[SyntheticObject, ...]]


class SyntheticSet(Protocol):
    """What is written: a set that knows its size and renders its parts. It goes to other processes by pickle."""

    records_visibility: bool

    @property
    def stills(self) -> int: ...
    def manifest(self) -> dict: ...
    def video_count(self, split: str) -> int: ...
    def video_length(self, split: str, index: int) -> int: ...
    def render(self, split: str, index: int) -> Iterator[Frame]: ...
    def render_still(self, index: int) -> Frame: ...


class Job(NamedTuple):
    """What one process makes in one go: a video, or (split "det") a folder of stills."""

    split: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls


def video_id(split: str, index: int) -> str:
    """The video's path below Data/VID, which is also its name in the lists."""
    name = f"ILSVRC2015_{split}_{index:08d}"
    if split == "train":
        return f"train/ILSVRC2015_VID_train_{index // _VIDEOS_PER_FOLDER:04d}/{name}"
    return f"{split}/{name}"


def still_id(index: int) -> str:
    """The still's path below Data/DET, which is also its name in the list."""
    return f"{_still_folder(index // _STILLS_PER_FOLDER)}/{index:08d}"


def _still_folder(number: int) -> str:
    return f"train/SYNTHETIC_DET_train_{number:04d}"


def find_video(source: SyntheticSet, name: str) -> tuple[str, int]:
    """The split and index of the video whose id is `name`.

    Raises:
        UserError: the set has no such video.
    """
    for split in SPLITS:
        for index in range(source.video_count(split)):
            if video_id(split, index) == name:
                return split, index
    examples = [f"{video_id(split, 0)} ..." for split in SPLITS if source.video_count(split)]
    raise UserError(
        f"No video {name!r} in this set: expected an id as in its lists ({', '.join(examples) or 'it is empty'})."
    )


def write_set(
    source: SyntheticSet,
    output: str | os.PathLike,
    describe: Callable[[dict, dict], str],
    workers: int = 1,
) -> None:
    """Write the set to the folder `output`; the bytes do not depend on `workers`.

    Each video, and each folder of stills, appears whole or not at all; those of an interrupted run of the same set are
    kept.

    Args:
        source: the set.
        output: a new or empty folder, or one that holds this very set.
        describe: what to say of two manifests, one found and one wanted, that differ.
        workers: processes; 1 makes all in this one.

    Raises:
        UserError: the folder holds something else, or another process writes it at the moment.
    """
    output = Path(output)
    _claim(source.manifest(), output, describe)
    with locked_file(output / _LOCK, "processes", remedy="folder", passing=True):
        _write_set(source, output, workers)


def _write_set(source: SyntheticSet, output: Path, workers: int) -> None:
    jobs = []
    for split in SPLITS:
        jobs += [Job(split, index) for index in range(source.video_count(split))]
    jobs += [Job("det", number) for number in range(math.ceil(source.stills / _STILLS_PER_FOLDER))]
    # Each job draws from its own seed, so a set that is continued is the one that would have been made in one go.
    missing = [job for job in jobs if not _is_there(job, output)]
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="videos", unit="video") as bar:
        if workers == 1 or len(missing) < 2:
            for job in missing:
                _make(source, job, output)
                bar.update()
        else:
            _make_in_processes(source, missing, output, workers, bar)
    # Last, because a set without lists counts as incomplete (`vod2.data.datasets.vod_synth`).
    _write_lists(source, output / "ImageSets")
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)


def _make_in_processes(source: SyntheticSet, jobs: Sequence[Job], output: Path, workers: int, bar: tqdm) -> None:
    # Not forked: this process may have threads (PyTorch's), which do not survive that.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C ends this process alone, which lets the others finish what they are at.
    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(min(workers, len(jobs)), context, signal.signal, ignore_interrupts) as pool:
        try:
            for future in as_completed([pool.submit(_make, source, job, output) for job in jobs]):
                future.result()
                bar.update()
        except BaseException:
            # Otherwise leaving the pool would first make everything that is queued.
            pool.shutdown(cancel_futures=True)
            raise


def read_deterioration(path: str | os.PathLike) -> dict[int, dict[int, dict[str, float]]]:
    """Read a video's deterioration file: {frame: {track id: {kind: strength in (0, 1]}}}.

    Clean objects, and frames where all objects are clean, are not in it. In the file, the keys are strings.
    """
    return _read_tracks(path)


def read_visibility(path: str | os.PathLike) -> dict[int, dict[int, float]]:
    """Read a video's visibility file: {frame: {track id: visible share of the object}}.

    Objects that are seen whole are not in it. In the file, the keys are strings.
    """
    return _read_tracks(path)


def _read_tracks(path: str | os.PathLike) -> dict[int, dict[int, Any]]:
    # The keys of JSON are strings.
    frames = {}
    for frame, tracks in load_json(Path(path).read_text(encoding="utf-8")).items():
        frames[int(frame)] = {int(track): value for track, value in tracks.items()}
        if strange := [value for value in frames[int(frame)].values() if not isinstance(value, dict | int | float)]:
            raise ValueError(f"frame {frame} has {shown(strange[0], 40)}")
    return frames


def encode_jpeg(image: np.ndarray) -> bytes:
    """The file of a frame (H, W, 3) uint8 BGR."""
    return encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def _claim(wanted: dict, output: Path, describe: Callable[[dict, dict], str]) -> None:
    """Make sure that `output` is empty or holds this very set, and record the set in it."""
    manifest = output / MANIFEST
    if output.is_dir() and any(output.iterdir()):
        existing = None
        with contextlib.suppress(OSError, ValueError):
            existing = load_json(manifest.read_text(encoding="utf-8"))
        if existing != wanted:
            holds = "another synthetic set" if isinstance(existing, dict) else "something else"
            if isinstance(existing, dict):
                holds = f"{holds} ({describe(existing, wanted)})"
            raise UserError(f"{output} already holds {holds}: give an empty folder, or delete this one.")
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give a folder.")
    write_json(manifest, wanted)


def _places(job: Job, output: Path) -> tuple[Path, Path]:
    """The folders of a job's images and annotations."""
    name = ("DET", _still_folder(job.index)) if job.split == "det" else ("VID", video_id(*job))
    return output.joinpath("Data", *name), output.joinpath("Annotations", *name)


def _is_there(job: Job, output: Path) -> bool:
    data, annotations = _places(job, output)
    return annotations.is_dir() and data.is_dir()  # the annotations are moved in last


def _make(source: SyntheticSet, job: Job, output: Path) -> None:
    data, annotations = _places(job, output)
    partial = output / _PARTIAL / f"{job.split}_{job.index}"
    # What an interrupted run has left, such as images whose annotations were not moved in.
    for leftover in (data, annotations, partial):
        shutil.rmtree(leftover, ignore_errors=True)
    new_data, new_annotations = partial / "data", partial / "annotations"
    new_data.mkdir(parents=True)
    new_annotations.mkdir()
    if job.split == "det":
        _make_stills(source, job.index, new_data, new_annotations)
    else:
        _make_video(source, job, new_data, new_annotations)
    # Moved, not copied, so that a folder is there whole or not at all; the annotations last, see `_is_there`.
    for made, target in ((new_data, data), (new_annotations, annotations)):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)


def _make_video(source: SyntheticSet, job: Job, data: Path, annotations: Path) -> None:
    folder = video_id(*job).split("/", 1)[1]
    deterioration, visibility = {}, {}
    for frame, (image, objects) in enumerate(source.render(*job)):
        (data / f"{frame:06d}.JPEG").write_bytes(encode_jpeg(image))
        _write_xml(annotations / f"{frame:06d}.xml", folder, image.shape[:2], objects, is_video=True)
        kinds = {item.track_id: item.deterioration for item in objects if item.deterioration}
        if kinds:
            deterioration[frame] = kinds
        shares = {item.track_id: item.visible_share for item in objects if item.visible_share < 1}
        if shares:
            visibility[frame] = shares
    write_json(annotations / DETERIORATION_FILE, deterioration)
    if source.records_visibility:
        write_json(annotations / VISIBILITY_FILE, visibility)


def _make_stills(source: SyntheticSet, number: int, data: Path, annotations: Path) -> None:
    folder = _still_folder(number).split("/", 1)[1]
    for index in range(number * _STILLS_PER_FOLDER, min((number + 1) * _STILLS_PER_FOLDER, source.stills)):
        image, objects = source.render_still(index)
        (data / f"{index:08d}.JPEG").write_bytes(encode_jpeg(image))
        _write_xml(annotations / f"{index:08d}.xml", folder, image.shape[:2], objects, is_video=False)


def _write_xml(
    path: Path, folder: str, size: tuple[int, int], objects: Sequence[SyntheticObject], is_video: bool
) -> None:
    root = ElementTree.Element("annotation")
    _add(root, folder=folder, filename=path.stem)
    _add(ElementTree.SubElement(root, "source"), database="vod2 synthetic")
    _add(ElementTree.SubElement(root, "size"), width=size[1], height=size[0])
    for item in objects:
        x1, y1, x2, y2 = item.box
        element = ElementTree.SubElement(root, "object")
        if is_video:
            _add(element, trackid=item.track_id)
        _add(element, name=item.name)
        # The order of the elements is that of ImageNet VID's files.
        _add(ElementTree.SubElement(element, "bndbox"), xmax=x2, xmin=x1, ymax=y2, ymin=y1)
        if is_video:
            _add(element, occluded=int("occlusion" in item.deterioration), generated=0)
    ElementTree.indent(root, "\t")
    path.write_bytes(ElementTree.tostring(root) + b"\n")


def _add(parent: ElementTree.Element, **fields: str | int) -> None:
    for tag, value in fields.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def listed_frames(length: int) -> list[int]:
    """The frames of a training video that the list names: those of the published list."""
    if length < _TRAIN_FRAMES:
        return list(range(length))
    return [int((i + 0.5) * length / _TRAIN_FRAMES) for i in range(_TRAIN_FRAMES)]


def _write_lists(source: SyntheticSet, folder: Path) -> None:
    # The numbers of frames in the list of videos count from 1 over the whole list.
    train, val, first = [], [], 1
    for index in range(source.video_count("train")):
        length = source.video_length("train", index)
        train += [f"{video_id('train', index)} 1 {frame} {length}\n" for frame in listed_frames(length)]
    for index in range(source.video_count("val")):
        length = source.video_length("val", index)
        val.append(f"{video_id('val', index)} {first} 0 {length}\n")
        first += length
    stills = [f"{still_id(index)} 1\n" for index in range(source.stills)]
    lists = {"VID/VID_train_15frames.txt": train, "VID/VID_val_videos.txt": val}
    if stills:
        lists["DET/DET_train_30classes.txt"] = stills
    for name, lines in lists.items():
        with replacing(folder / name) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
