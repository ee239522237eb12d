"""Where the frames of a video are that an annotation file names: in a folder of images, or in a video file."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vod2.data.datasets.common import video_file
from vod2.data.datasets.faults import Fault, Place
from vod2.data.datasets.files import image_files_in, leads_out
from vod2.data.datasets.images import image_size
from vod2.errors import UserError
from vod2.video import VideoReader

_NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[^./\\]+)", re.DOTALL)  # the last number in a name


class FrameFiles(NamedTuple):
    """The frames of a video.

    Args:
        files: {number of a frame, from 0: its image}, or of a video file, the file for every number.
        size: (height, width) in pixels.
        length: how many frames there are; the highest number and one.
        in_file: it is a video file.
    """

    files: dict[int, str]
    size: tuple[int, int]
    length: int
    in_file: bool


class FrameRoot(NamedTuple):
    """Where to look for the frames of all videos of a dataset.

    Args:
        images: folder of the videos' folders of images.
        videos: folder of video files; None for images.
        suffix: of the video files.
        further: another folder like `images`, for videos that are not there.
    """

    images: str | os.PathLike
    videos: str | os.PathLike | None = None
    suffix: str = ".mp4"
    further: str | os.PathLike | None = None

    def folders(self, names: Sequence[str], place: Place, alone: bool = False) -> list[Path]:
        """Where the images of a video may be, the likeliest folder first; arguments as of `frames`.

        Raises:
            Fault: a name leads out of these folders.
        """
        _require_inside(names, place)
        first, *others = [Path(root) for root in (self.images, self.further) if root is not None]
        found = [above / name for name in names for above in (first, first / "images")]
        found += [first / "images", first] if alone else []
        for root in others:
            for name in names:
                found += [root / name, root / "images" / name]
        return found

    def frames(
        self, names: Sequence[str], place: Place, numbers: Sequence[int] | None = None, alone: bool = False
    ) -> FrameFiles:
        """The frames of a video.

        Args:
            names: of its folder or file, without a suffix; the first that is there is taken.
            place: of the video in the annotations, for messages.
            numbers: of the frames that the images show; None for 0, 1, 2 ... Images whose names are frame_<number>, as
                CVAT exports them, have their own.
            alone: it is the only video, so that its images may be in the root itself, or in `images` there.

        Raises:
            Fault: there is no such video, it cannot be read, or has another number of images than `numbers`.
        """
        if self.videos is not None:
            _require_inside(names, place)
            files = [video_file(self.videos, name, self.suffix) for name in names]
            return _of_file(next((file for file in files if os.path.isfile(file)), files[0]), place)
        folders = self.folders(names, place, alone)
        for folder in folders:
            images = image_files_in(folder) if os.path.isdir(folder) else []  # no error for a name that none can have
            if images:
                return _of_folder(folder, images, numbers)
        value, expected = "its images are not there", f"a folder with them, {' or '.join(map(str, folders))}"
        remedy = "give image_root, or video_root for a video file"
        raise Fault.at(place, value, expected, "missing_video", remedy)


def _require_inside(names: Sequence[str], place: Place) -> None:
    for name in names:
        if leads_out(name):
            value, expected = f"the video is called {name!r:.80}", "a name of a file or folder"
            raise Fault.at(place, value, expected, remedy="rename the video")


def _of_file(path: str, place: Place) -> FrameFiles:
    if not os.path.isfile(path):
        remedy = "give video_root and video_suffix, or rename the file"
        raise Fault.at(place, f"its video {path} is not there", "the file", "missing_video", remedy)
    try:
        reader = VideoReader(path)
        length, (width, height) = reader.frame_count(), reader.size
    except UserError as error:
        raise Fault.at(place, str(error), "a video that can be decoded", "unreadable_video", "repair it") from error
    return FrameFiles(dict.fromkeys(range(length), path), (height, width), length, True)


def _of_folder(folder: Path, images: list[Path], numbers: Sequence[int] | None) -> FrameFiles:
    named = [re.fullmatch(r"frame_([0-9]{6,})", image.stem) for image in images]
    if all(named):
        files = {int(match[1]): str(image) for match, image in zip(named, images, strict=True) if match}
    elif numbers is None or len(images) == len(numbers):
        numbers = range(len(images)) if numbers is None else numbers
        files = dict(zip(numbers, map(str, images), strict=True))
    else:
        value, remedy = f"{len(images)} images", "complete the video"
        raise Fault.at(Place(folder), value, f"{len(numbers)}, as annotated", "video_length", remedy)
    try:
        size = image_size(images[0])  # one head tells the size of all: opening each would take long
    except UserError as error:
        value, remedy = str(error), "get the image again"
        raise Fault.at(Place(images[0]), value, "an image", "unreadable_image", remedy) from error
    return FrameFiles(files, size, max(files) + 1, False)


def template_of(files: Mapping[int, str]) -> tuple[str, int] | None:
    """(template, first) so that frame i is the file `template % (i + first)`, if files say so that are there.

    It names the images of frames that an annotation file leaves out: where names end in numbers that count like the
    frames, and the first frame that is missing among them has an image.

    Args:
        files: {number of a frame: its image}, those that are annotated.

    Example:
        >>> template_of({0: "a/1.jpg", 1: "a/2.jpg"})  # no frame is left out
    """
    numbers = sorted(files)
    missing = next((number + 1 for number in numbers[:-1] if number + 1 not in files), None)
    if missing is None:
        return None
    matches = {number: _NUMBERED.fullmatch(files[number]) for number in numbers}
    heads = {(match[1], match[3]) for match in matches.values() if match}
    offsets = {int(match[2]) - number for number, match in matches.items() if match}
    if None in matches.values() or len(heads) != 1 or len(offsets) != 1:
        return None
    ((head, tail),), first = heads, offsets.pop()
    # Names with leading zeros have a constant number of digits, others the digits that they need.
    digits = min(len(match[2]) for match in matches.values() if match)
    template = f"{head.replace('%', '%%')}%0{digits}d{tail.replace('%', '%%')}"
    fits = all(template % (number + first) == files[number] for number in numbers)
    return (template, first) if fits and os.path.isfile(template % (missing + first)) else None
