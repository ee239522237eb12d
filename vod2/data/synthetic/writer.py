"""Writes synthetic videos in ImageNet VID's own layout, so that the readers of the real set read them.

    synthetic.json                                              what the set was made from
    Data/VID/train/ILSVRC2015_VID_train_0000/<video>/000000.JPEG
    Data/VID/val/<video>/000000.JPEG
    Annotations/VID/...                                         mirrors Data, 000000.xml; names are class names
    Annotations/VID/.../<video>/deterioration.json              beside a video's XML: see `read_deterioration`
    ImageSets/VID/VID_train_15frames.txt                        path 1 frame frames
    ImageSets/VID/VID_val_videos.txt                            path firstid 0 frames

Box edges are written as they are, without ones added or taken away: xmax - xmin is the width, and xmax may equal the
width of the image.
"""

import contextlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from tqdm import tqdm

from vod2.atomic import replacing, write_json
from vod2.data.synthetic.classes import SYNTHETIC_CLASSES
from vod2.data.synthetic.scene import SPLITS, SyntheticConfig, SyntheticObject, render_video
from vod2.errors import UserError

GENERATOR_VERSION = 1  # raise it with every change that changes a pixel or a box
DETERIORATION_FILE = "deterioration.json"

_MANIFEST = "synthetic.json"
_PARTIAL = ".partial"
_JPEG_QUALITY = 95
_TRAIN_FRAMES = 15  # frames of a training video that the training list names
_VIDEOS_PER_FOLDER = 1000


def video_id(split: str, index: int) -> str:
    """The video's path below Data/VID, which is also its name in the lists."""
    name = f"ILSVRC2015_{split}_{index:08d}"
    if split == "train":
        return f"train/ILSVRC2015_VID_train_{index // _VIDEOS_PER_FOLDER:04d}/{name}"
    return f"{split}/{name}"


def find_video(config: SyntheticConfig, name: str) -> tuple[str, int]:
    """The split and index of the video whose id is `name`.

    Raises:
        UserError: the set has no such video.
    """
    for split in SPLITS:
        for index in range(config.video_count(split)):
            if video_id(split, index) == name:
                return split, index
    known = [f"{video_id(split, 0)} ..." for split in SPLITS if config.video_count(split)]
    raise UserError(
        f"No video {name!r} in this set: expected an id as in its lists ({', '.join(known) or 'it is empty'})."
    )


def write_synthetic(config: SyntheticConfig, output: str | os.PathLike) -> None:
    """Write the set to the folder `output`.

    Each video appears whole or not at all; videos of an interrupted run with the same configuration are kept.

    Raises:
        UserError: the folder holds something else.
    """
    output = Path(output)
    _claim(config, output)
    jobs = [(split, index) for split in SPLITS for index in range(config.video_count(split))]
    for split, index in tqdm(jobs, desc="videos", unit="video"):
        _write_video(config, split, index, output)
    _write_lists(config, output / "ImageSets" / "VID")
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)


def read_deterioration(path: str | os.PathLike) -> dict[int, dict[int, dict[str, float]]]:
    """Read a video's deterioration file: {frame: {track id: {kind: strength in (0, 1]}}}.

    Clean objects, and frames where all objects are clean, are not in it. In the file, the keys are strings.
    """
    frames = json.loads(Path(path).read_text(encoding="utf-8"))
    return {int(frame): {int(track): kinds for track, kinds in tracks.items()} for frame, tracks in frames.items()}


def write_mp4(config: SyntheticConfig, name: str, path: str | os.PathLike, fps: int = 25) -> None:
    """Write one video of the set as an mp4 (H.264 where PyAV has it), odd sizes padded by a black row or column.

    Raises:
        UserError: the set has no video of that id.
    """
    import av  # only this function needs it

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    split, index = find_video(config, name)
    padding = ((0, config.height % 2), (0, config.width % 2), (0, 0))
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = config.height + padding[0][1], config.width + padding[1][1]
        stream.pix_fmt = "yuv420p"
        for image, _ in render_video(config, split, index):
            frame = av.VideoFrame.from_ndarray(np.pad(image, padding), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _claim(config: SyntheticConfig, output: Path) -> None:
    """Make sure that `output` is empty or holds this very set, and record the set in it."""
    wanted = {
        "generator_version": GENERATOR_VERSION,
        "config": _described(config),
        "class_names": list(SYNTHETIC_CLASSES[: config.classes]),
    }
    manifest = output / _MANIFEST
    if output.is_dir() and any(output.iterdir()):
        found = None
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(manifest.read_text(encoding="utf-8"))
        if found != wanted:
            holds = "something else" if found is None else f"another synthetic set ({_differences(found, wanted)})"
            raise UserError(f"{output} already holds {holds}: give an empty folder, or delete this one.")
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give a folder.")
    write_json(manifest, wanted)


def _described(config: SyntheticConfig) -> dict:
    """The configuration as the manifest has it: without a `speed` of 1, as in sets from before there was one."""
    fields = asdict(config)
    if config.speed == 1:
        del fields["speed"]
    return fields


def _differences(found: dict, wanted: dict) -> str:
    theirs, ours = (
        {"generator_version": one.get("generator_version"), "speed": 1.0, **dict(one.get("config") or {})}
        for one in (found, wanted)
    )
    return ", ".join(f"{key} {theirs.get(key)}, not {value}" for key, value in ours.items() if theirs.get(key) != value)


def _write_video(config: SyntheticConfig, split: str, index: int, output: Path) -> None:
    name = video_id(split, index)
    data, annotations = output / "Data" / "VID" / name, output / "Annotations" / "VID" / name
    if annotations.is_dir() and data.is_dir():  # the annotations are moved in last
        return
    for leftover in (data, annotations, output / _PARTIAL):
        shutil.rmtree(leftover, ignore_errors=True)
    new_data, new_annotations = output / _PARTIAL / "data", output / _PARTIAL / "annotations"
    new_data.mkdir(parents=True)
    new_annotations.mkdir()
    deterioration = {}
    for frame, (image, objects) in enumerate(render_video(config, split, index)):
        _write_jpeg(new_data / f"{frame:06d}.JPEG", image)
        _write_xml(new_annotations / f"{frame:06d}.xml", name, frame, image.shape[:2], objects)
        kinds = {item.track_id: item.deterioration for item in objects if item.deterioration}
        if kinds:
            deterioration[frame] = kinds
    write_json(new_annotations / DETERIORATION_FILE, deterioration)
    for source, target in ((new_data, data), (new_annotations, annotations)):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    path.write_bytes(encoded.tobytes())  # unlike imwrite, this raises when the disk is full


def _write_xml(path: Path, name: str, frame: int, size: tuple[int, int], objects: tuple[SyntheticObject, ...]) -> None:
    root = ElementTree.Element("annotation")
    _add(root, folder=name.split("/", 1)[1], filename=f"{frame:06d}")
    _add(ElementTree.SubElement(root, "source"), database="vod2 synthetic")
    _add(ElementTree.SubElement(root, "size"), width=size[1], height=size[0])
    for item in objects:
        x1, y1, x2, y2 = item.box
        element = ElementTree.SubElement(root, "object")
        _add(element, trackid=item.track_id, name=item.name)
        _add(ElementTree.SubElement(element, "bndbox"), xmax=x2, xmin=x1, ymax=y2, ymin=y1)
        _add(element, occluded=0, generated=0)
    ElementTree.indent(root, "\t")
    path.write_bytes(ElementTree.tostring(root) + b"\n")


def _add(parent: ElementTree.Element, **fields: str | int) -> None:
    for tag, value in fields.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _write_lists(config: SyntheticConfig, folder: Path) -> None:
    frames = config.frames
    chosen = [int((i + 0.5) * frames / _TRAIN_FRAMES) for i in range(_TRAIN_FRAMES)]
    if frames < _TRAIN_FRAMES:
        chosen = list(range(frames))
    train = [
        f"{video_id('train', index)} 1 {frame} {frames}\n" for index in range(config.train_videos) for frame in chosen
    ]
    val = [f"{video_id('val', index)} {1 + index * frames} 0 {frames}\n" for index in range(config.val_videos)]
    for name, lines in (("VID_train_15frames.txt", train), ("VID_val_videos.txt", val)):
        with replacing(folder / name) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
