"""A file that says which frames of a dataset are deteriorated, for videos whose annotations do not."""

import os
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from vod2.bounded import load_json
from vod2.errors import UserError

# No video has a frame of more digits.
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


class _Video(NamedTuple):
    """The frames of one video that the dataset has, {number: image_id}, and how many frames the video has."""

    frames: dict[int, Hashable]
    length: int


def read_frame_kinds(path: str | os.PathLike, dataset: Sequence[dict]) -> dict[Hashable, tuple[str, ...]]:
    """Read which kinds of deterioration the frames of a dataset have.

    The file is JSON. A key is a video_id with its frames by number, counted from 0, or by ranges that include both
    ends; or it is an image_id, and names one frame:

        {"dogs/0007": {"12": ["motion_blur"], "30-41": ["defocus", "low_light"]}, "foxes/0001/000003": ["occlusion"]}

    In place of a list, kinds may be the keys of an object ({"defocus": 0.5}). What several entries say of one frame is
    put together. Frames that the file does not name are clean as far as it goes.

    Args:
        dataset: dicts with image_id, and for videos video_id, frame_index and perhaps video_length.

    Returns:
        {image_id: kinds, each once}, of the frames of the dataset that are named.

    Raises:
        UserError: the file cannot be read, holds something else, or names a video or frame that does not exist.
    """
    videos, images = _index(dataset)
    kinds_of_image: dict[Hashable, list[str]] = {}
    for key, value in _read_object(path).items():
        where = f"{path}: {key!r}"
        # Where a video and an image have one name, what stands behind the key tells which is meant.
        if key in videos and not (key in images and _are_kinds(value)):
            for image_id, kinds in _kinds_of_video(value, videos[key], where):
                kinds_of_image.setdefault(image_id, []).extend(kinds)
        elif key in images:
            kinds_of_image.setdefault(images[key], []).extend(_check_kinds(value, where))
        else:
            raise UserError(
                f"{where} is neither a video_id nor an image_id of the dataset, whose first video is "
                f"{next(iter(videos), None)!r} and first image {next(iter(images), None)!r}: correct the key; if the "
                "file is of another dataset, name it in that one's metadata (frame_kinds), not in TEST.FRAME_KINDS"
            )
    return {image_id: tuple(dict.fromkeys(kinds)) for image_id, kinds in kinds_of_image.items()}


def _read_object(path: str | os.PathLike) -> dict:
    try:
        content = load_json(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file of deteriorated frames cannot be read ({error}): fix it") from error
    if not isinstance(content, dict):
        raise UserError(
            f'{path} holds a {type(content).__name__}, expected an object such as {{"video": {{"12-20": ["defocus"]}}}}'
        )
    return content


def _index(dataset: Sequence[dict]) -> tuple[dict[str, _Video], dict[str, Hashable]]:
    """Videos by their id, and image_ids, as text."""
    videos: dict[str, _Video] = {}
    images = {}
    for record in dataset:
        # Keys of JSON are text, ids may be numbers.
        images[str(record["image_id"])] = record["image_id"]
        if record.get("video_id") is None:
            continue
        name, number = str(record["video_id"]), record["frame_index"]
        video = videos.get(name, _Video({}, 0))
        video.frames[number] = record["image_id"]
        videos[name] = video._replace(length=max(video.length, number + 1, record.get("video_length", 0)))
    return videos, images


def _kinds_of_video(value: object, video: _Video, where: str) -> list[tuple[Hashable, list[str]]]:
    if not isinstance(value, dict):
        raise UserError(f'{where} is {value!r:.80}, expected frames such as {{"12-20": ["defocus"]}}: fix the file')
    result = []
    for frames, kinds in value.items():
        match = _RANGE.fullmatch(frames)
        # What is neither number nor range becomes an empty range, which is refused below.
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UserError(f'{where}: frame {frames!r}: expected a number from 0 or a range such as "12-20"')
        if last >= video.length:
            raise UserError(f"{where}: frame {frames!r}: the video has {video.length} frames, counted from 0")
        kinds = _check_kinds(kinds, f"{where}: frame {frames!r}")
        # A dataset may evaluate some frames of a video only; the file is about the video.
        numbers = [number for number in range(first, last + 1) if number in video.frames]
        result += [(video.frames[number], kinds) for number in numbers]
    return result


def _are_kinds(value: object) -> bool:
    if isinstance(value, dict):  # {kind: strength}; the keys of a video are numbers
        return all(not _RANGE.fullmatch(key) for key in value)
    return isinstance(value, list)


def _check_kinds(value: object, where: str) -> list[str]:
    kinds = [kind for kind in value if isinstance(kind, str) and kind] if isinstance(value, list | dict) else []
    if not isinstance(value, list | dict) or len(kinds) != len(value):
        raise UserError(f'{where} is {value!r:.80}, expected a list of names such as ["motion_blur"]: fix the file')
    return kinds
