"""Videos that were annotated in CVAT, exported as "CVAT for video 1.1" or "CVAT for images 1.1".

    <root>/annotations.xml                     of a task, a job, or all tasks of a project
    <root>/images/frame_000000.png ...         if the images were exported, too; else the video is found by `video_root`

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
from vod2.data.datasets.faults import Fault, Report, refuse
from vod2.data.datasets.files import leads_out
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
    """Read an export of CVAT, of a task, a job or a project.

    Boxes of tracks are those of the file. Frames between its boxes that it leaves out are interpolated linearly, as in
    CVAT, and after the last box that is not outside a track stays until the end; a warning counts these. Shapes other
    than boxes are left out, a rotated box becomes the smallest upright one around it, and a warning counts both.

    Args:
        path: the XML file, or the folder with annotations.xml.
        image_root: folder of the images, or of a folder of images for each video; None for that of the file. Images
            that are not called frame_<number> are taken in natural order.
        class_names: names of the classes to keep, by category id; None for the labels of the file, in its order.
        video_root: take the frames from video files, <video_root>/<video><video_suffix>, rather than from images.
        video_suffix: of the video files.
        list_file: JSON list of the image ids to take; None for all.

    Returns:
        The dicts of the frames of every task, also those without an object, and the class names. Boxes of "CVAT for
        images", where CVAT splits tracks, have no `track_id`.

    Raises:
        UserError: a file is missing or not as above; names the file, the entry and the value.
    """
    labelled = read_cvat(path, refuse, image_root=image_root, video_root=video_root, video_suffix=video_suffix)
    return to_dataset(labelled, path, class_names, list_file)


def cvat_file(path: str | os.PathLike) -> Path:
    """The XML file: `path`, or annotations.xml in that folder."""
    return Path(path, "annotations.xml") if Path(path).is_dir() else Path(path)


def read_cvat(
    path: str | os.PathLike,
    report: Report,
    *,
    image_root: str | os.PathLike | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
) -> LabelledSet:
    """What a file holds; arguments as of `load_cvat`, and `report`, which takes the faults."""
    file = cvat_file(path)
    counted = Counted()
    parsed = parse_cvat(file, report, counted)
    root = FrameRoot(file.parent if image_root is None else image_root, video_root, video_suffix)
    sources = Counter(Path(task.source).stem for task in parsed.tasks)
    videos: list[LabelledVideo] = []
    for task in parsed.tasks:
        stem = Path(task.source).stem
        # A long video may be cut into several tasks.
        video = LabelledVideo(stem if stem and sources[stem] == 1 else task.name, str(file))
        try:
            require_new_name(video.name, videos, task.place)
            if task.images and video_root is None:
                _add_images(video, task, root, report)
            else:
                _add_frames(video, task, root, [stem, task.name] if stem else [task.name], len(parsed.tasks) == 1)
        except Fault as fault:
            report(fault)
            continue
        videos.append(video)
        numbers = sorted(video.frames)
        for track in task.tracks.values():
            _add_track(video, numbers, track, report, counted)
    for text in counted.texts():
        logger.warning("%s: %s", file, text)
    return LabelledSet(parsed.labels or names_met(videos), videos)


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


def _add_images(video: LabelledVideo, task: ParsedTask, root: FrameRoot, report: Report) -> None:
    """The frames of "CVAT for images", which has their names."""
    folders = [Path(root.images), Path(root.images, "images")]
    first = task.images[min(task.images)].file_name
    folder = next((folder for folder in folders if os.path.isfile(folder / first)), folders[0])
    for index in sorted(task.images):
        image = task.images[index]
        if leads_out(image.file_name):
            value, expected = f"file name {image.file_name!r:.80}", f"a file below {folder}"
            report_of_frame(report, Fault.at(image.place, value, expected, remedy="correct it"), video.name, index)
            continue
        video.frames[index] = LabelledFrame(str(folder / image.file_name), image.size, image.objects)
    video.length = max(video.frames, default=-1) + 1


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
