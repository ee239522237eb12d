"""Videos that were annotated in CVAT, exported as "CVAT for video 1.1" or "CVAT for images 1.1".

    <root>/annotations.xml                     of a task, a job, or all tasks of a project
    <root>/images/frame_000000.png ...         if the images were exported, too; else the video is found by `video_root`

Several tasks that were exported one by one are a folder of such files, or of such folders:

    <root>/a.xml, <root>/b.xml ...             or <root>/a/annotations.xml, <root>/b/annotations.xml ...

    <annotations>
      <meta><task><id/><name/><size/><source>clip.mp4</source><labels><label><name/></label></labels></task></meta>
      <track id="0" label="car">
        <box frame="0" keyframe="1" outside="0" occluded="0" xtl="1.0" ytl="2.0" xbr="3.0" ybr="4.0"/> ...
      </track>
    </annotations>

A video is named like the file that its task was made of, without the suffix; a task of images like the task.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vod2.data.datasets.common import VideoDataset
from vod2.data.datasets.cvat_parser import ParsedTask, ParsedTrack, parse_cvat
from vod2.data.datasets.faults import Fault, Place, Report, refuse
from vod2.data.datasets.files import files_in, folders_in, image_files_in, leads_out
from vod2.data.datasets.frame_files import FrameRoot
from vod2.data.datasets.keyframes import around, fill_track
from vod2.data.datasets.labelled import (
    Counted,
    LabelledFrame,
    LabelledObject,
    LabelledSet,
    LabelledVideo,
    names_met,
    register_labelled,
    report_of_frame,
    require_new_name,
    to_dataset,
)
from vod2.video import natural_key
from vod2.video.reader import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


def register_cvat(name: str, path: str | os.PathLike, class_names: Sequence[str] | None = None, **options: Any) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        path, class_names, options: see `load_cvat`. Without `class_names`, the metadata gets `thing_classes` when the
            dataset is first used.
    """
    register_labelled(name, load_cvat, "cvat", path, class_names, options)


def load_cvat(
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    list_file: str | os.PathLike | None = None,
) -> VideoDataset:
    """Read an export of CVAT, of a task, a job or a project, or several of them as one dataset.

    Boxes of tracks are those of the file. Frames between its boxes that it leaves out are interpolated linearly, as in
    CVAT, and after the last box that is not outside a track stays until the end; a warning counts these. Shapes other
    than boxes are left out, a rotated box becomes the smallest upright one around it, and a warning counts both.

    Args:
        path: the XML file, or a folder, see `cvat_files`.
        image_root: folder of the images, or of a folder of images for each video; None for that of the file. Images
            that are not called frame_<number> are taken in natural order. Where there are several files, the images of
            each are looked for beside it first, then in `image_root`, or without it, in `path`.
        class_names: names of the classes to keep, by category id; None for the labels of the files, in their order.
        video_root: take the frames from video files, <video_root>/<video><video_suffix>, rather than from images.
        video_suffix: of the video files.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts of the frames of every task, also those without an object, and the class names. Boxes of "CVAT for
        images", where CVAT splits tracks, have no `track_id`. Where two files have a video of one name, that of the
        later gets the name of the file, or of its folder, in front, which a warning says.

    Raises:
        UserError: a file is missing or not as above; names the file, the entry and the value.
    """
    labelled = read_cvat(path, refuse, image_root=image_root, video_root=video_root, video_suffix=video_suffix)
    return to_dataset(labelled, path, class_names, list_file)


def cvat_files(path: str | os.PathLike) -> list[Path]:
    """The XML files that `path` stands for.

    Args:
        path: a file; or a folder with annotations.xml; or one with any files *.xml, or folders with annotations.xml,
            which are taken in natural order.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    whole = folder / "annotations.xml"
    return [whole] if whole.is_file() else _single_exports(folder)


def _single_exports(folder: Path) -> list[Path]:
    below = [inner / "annotations.xml" for inner in folders_in(folder)]
    found = [*files_in(folder, ".xml"), *(file for file in below if file.is_file())]
    return sorted(found, key=lambda file: natural_key(file.relative_to(folder).as_posix()))


def _tell_files(path: Path, files: list[Path], report: Report) -> None:
    """Report that there is no file, or warn of those that are left out."""
    if not files:
        value, expected = "there is no file of CVAT in it", "annotations.xml, *.xml or */annotations.xml"
        remedy = "unpack the ZIP archives that are in it" if any(files_in(path, ".zip")) else "give another folder"
        report(Fault.at(Place(path), value, expected, "missing_annotation", remedy))
    elif path.is_dir():
        left_out = [str(file) for file in _single_exports(path) if file not in files]
        if left_out:
            logger.warning("%s: only annotations.xml is read; left out: %s", path, ", ".join(left_out))


def read_cvat(
    path: str | os.PathLike,
    report: Report,
    *,
    image_root: str | os.PathLike | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
) -> LabelledSet:
    """What the files hold; arguments as of `load_cvat`, and `report`, which takes the faults."""
    files = cvat_files(path)
    _tell_files(Path(path), files, report)
    reader = _Reader(report, len(files) > 1)
    folders = Counter(file.parent for file in files)
    for file in files:
        if file.suffix.lower() == ".zip" and file.is_file():
            value, expected = "it is a ZIP archive", "the XML file, or the folder, that is in it"
            report(Fault.at(Place(file), value, expected, remedy="unpack it, and give what comes out"))
            continue
        if len(files) == 1:
            root = FrameRoot(file.parent if image_root is None else image_root, video_root, video_suffix)
        else:
            root = FrameRoot(file.parent, video_root, video_suffix, path if image_root is None else image_root)
        reader.read(file, root, folders[file.parent] == 1)
    return LabelledSet(list(reader.labels), reader.videos)


class _Reader:
    """Reads one file after the other into one set.

    Args:
        report: takes the faults.
        several: there is more than one file.
    """

    def __init__(self, report: Report, several: bool) -> None:
        self.labels: dict[str, None] = {}
        self.videos: list[LabelledVideo] = []
        self._report, self._several = report, several
        self._owners: dict[tuple[str, int], LabelledVideo] = {}  # of a video file's frame, or of an image

    def read(self, file: Path, root: FrameRoot, alone: bool) -> None:
        """Add the videos and labels of a file; `alone` if there is no other in its folder."""
        counted = Counted()
        parsed = parse_cvat(file, self._report, counted)
        sources = Counter(Path(task.source).stem for task in parsed.tasks)
        videos: list[LabelledVideo] = []
        for task in parsed.tasks:
            stem = Path(task.source).stem
            # A long video may be cut into several tasks.
            video = LabelledVideo(stem if stem and sources[stem] == 1 else task.name, str(file))
            names = [stem, task.name] if stem else [task.name]
            try:
                require_new_name(video.name, videos, task.place)
                names = self._named_apart(video, names, task, file)
                if task.images and root.videos is None:
                    _add_images(video, task, root.folders(names, task.place, alone=True), self._report)
                else:
                    _add_frames(video, task, root, names, alone and len(parsed.tasks) == 1)
                self._require_own_frames(video, task)
            except Fault as fault:
                self._report(fault)
                continue
            videos.append(video)
            self.videos.append(video)
            numbers = sorted(video.frames)
            for track in task.tracks.values():
                _add_track(video, numbers, track, self._report, counted)
        for text in counted.texts():
            logger.warning("%s: %s", file, text)
        self.labels |= dict.fromkeys(parsed.labels or names_met(videos))

    def _named_apart(self, video: LabelledVideo, names: list[str], task: ParsedTask, file: Path) -> list[str]:
        """Rename the video of a later file where one of an earlier file has its name; the names to look for."""
        earlier = next((other for other in self.videos if other.name == video.name), None)
        if earlier is None or earlier.annotation == video.annotation:
            return names
        front = file.parent.name if file.name == "annotations.xml" else file.stem
        old, video.name = video.name, f"{front}_{video.name}"
        require_new_name(video.name, self.videos, task.place)
        logger.warning("%s: its video %r is called %r, as %s has one, too", file, old, video.name, earlier.annotation)
        return [video.name, *names]

    def _require_own_frames(self, video: LabelledVideo, task: ParsedTask) -> None:
        """Raise a Fault if the frames that were found for a video are those of another file's."""
        if not self._several:
            return
        for index, frame in video.frames.items():
            owner = self._owners.setdefault((frame.file, index if video.in_file else 0), video)
            if owner.annotation != video.annotation:
                value = f"frame {index} of its video {video.name!r} is {frame.file}, which {owner.annotation} has, too"
                remedy = f"put its images beside it, in a folder of its own, or call its video {video.name!r}"
                raise Fault.at(task.place, value, "frames of its own", "duplicate_line", remedy)


def _add_frames(video: LabelledVideo, task: ParsedTask, root: FrameRoot, names: list[str], alone: bool) -> None:
    """The frames of a task from a video file, or a folder of images."""
    found = root.frames(names, task.place, task.numbers, alone)
    video.in_file, video.length = found.in_file, found.length
    numbers = task.numbers if task.numbers is not None else sorted(found.files)
    missing = next((number for number in numbers if number not in found.files), None)
    if missing is not None:
        value, remedy = f"frame {missing} is not there", "complete the video, or give the right one"
        raise Fault.at(task.place, value, f"the {len(numbers)} frames of the task", "video_length", remedy)
    for number in numbers:
        # What the file says of the size is what its boxes refer to.
        video.frames[number] = LabelledFrame(found.files[number], task.size or found.size)
    for number, image in task.images.items():
        if number in video.frames:
            video.frames[number].objects += image.objects


def _add_images(video: LabelledVideo, task: ParsedTask, folders: Sequence[Path], report: Report) -> None:
    """The frames of "CVAT for images", which has their names."""
    files = _ImageFiles()
    images = [image for image in task.images.values() if not leads_out(image.file_name)]
    found = (folder for folder in folders for image in images if files.find(folder / image.file_name))
    folder = next(found, folders[0])
    for index in sorted(task.images):
        image = task.images[index]
        try:
            if leads_out(image.file_name):
                value, expected = f"file name {image.file_name!r:.80}", f"a file below {folder}"
                raise Fault.at(image.place, value, expected, remedy="correct it")
            # Whether a file is there whose name is known in full, its reader will notice.
            file = files.find(folder / image.file_name) or folder / image.file_name
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                value, expected = f"its image {file} is not there", "it, with the suffix of an image"
                raise Fault.at(image.place, value, expected, "missing_frame", "give image_root, or get the image again")
        except Fault as fault:
            report_of_frame(report, fault, video.name, index)
            continue
        video.frames[index] = LabelledFrame(str(file), image.size, image.objects)
    video.length = max(video.frames, default=-1) + 1


class _ImageFiles:
    """Finds images by their names; of a task that was made of a video CVAT writes them without a suffix."""

    def __init__(self) -> None:
        self._stems: dict[Path, dict[str, Path]] = {}  # by folder

    def find(self, path: Path) -> Path | None:
        """The file `path`, or the image that is called so but for its suffix."""
        if os.path.isfile(path):
            return path
        if path.parent not in self._stems:
            images = image_files_in(path.parent) if os.path.isdir(path.parent) else []
            self._stems[path.parent] = {image.stem: image for image in images}
        return self._stems[path.parent].get(path.name)


def _add_track(
    video: LabelledVideo, numbers: Sequence[int], track: ParsedTrack, report: Report, counted: Counted
) -> None:
    keys = []
    for key in track.keys:
        if key.frame in video.frames:
            keys.append(key)
        elif key.shown:  # CVAT may end a track one frame after the last
            value = f"frame {key.frame} of video {video.name!r}, which has {len(video.frames)} frames"
            fault = Fault.at(key.place, value, "one of its frames", "video_length", "give the right video")
            report_of_frame(report, fault, video.name, key.frame)
    for key, made in fill_track(keys, numbers):
        box = key.box
        if made:
            kind = "interpolated between those of the file" if made == "interpolated" else "held until the video ends"
            counted.add(f"boxes {kind}", key.place)
        if key.rotation % 360:
            box = around(box, key.rotation, about_centre=True)
            counted.add("rotated boxes replaced by upright ones around them", key.place)
        thing = LabelledObject(key.place, track.label, box, track.id, key.occluded)
        video.frames[key.frame].objects.append(thing)
