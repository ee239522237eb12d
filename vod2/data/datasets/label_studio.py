"""Videos that were annotated in Label Studio with VideoRectangle, exported as JSON.

    [{"data": {"video": ".../clip.mp4"},
      "annotations": [{"result": [
        {"type": "videorectangle", "value": {"framesCount", "duration", "labels": ["car"], "sequence": [
           {"frame": from 1, "time", "enabled", "rotation", "x", "y", "width", "height"}, ...]}}]}]}]

Sides are percents of the frame. A video is named like its file, without the suffix and without the eight digits that an
upload puts before it.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vod2.data.datasets.common import VideoDataset
from vod2.data.datasets.faults import Fault, Report, refuse
from vod2.data.datasets.frame_files import FrameRoot
from vod2.data.datasets.keyframes import around, fill_track
from vod2.data.datasets.label_studio_parser import ParsedRegion, parse_label_studio
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


def register_label_studio(
    name: str, json_file: str | os.PathLike, class_names: Sequence[str] | None = None, **options: Any
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        json_file, class_names, options: see `load_label_studio`. Without `class_names`, the metadata gets
            `thing_classes` when the dataset is first used.
    """
    register_labelled(name, load_label_studio, "label_studio", json_file, class_names, options)


def load_label_studio(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    list_file: str | os.PathLike | None = None,
    predictions: bool = False,
) -> VideoDataset:
    """Read an export of Label Studio.

    Between two keyframes a box moves linearly, as in Label Studio; one that is not enabled is the last of its piece of
    the track, and after an enabled one the box stays until the end. A warning counts these boxes, and rotated ones,
    each of which becomes the smallest upright box around it.

    Args:
        json_file: the export; packed, if its name ends in .gz.
        image_root: folder of a folder of images for each video; None for that of the file.
        class_names: names of the classes to keep, by category id; None for those that occur, in alphabetical order.
        video_root: take the frames from video files, <video_root>/<video><video_suffix>, rather than from images.
        video_suffix: of the video files.
        list_file: JSON list of the image ids to take; None for all.
        predictions: of a task without an annotation, take the prediction of a model.

    Returns:
        The dicts of all frames of the videos that were annotated, and the class names. A region is a track. Of several
        annotations of a task the ground truth is taken, or else the first; a warning counts the others.

    Raises:
        UserError: a file is missing or not as above; names the file, the entry and the value.
    """
    labelled = read_label_studio(
        json_file,
        refuse,
        image_root=image_root,
        video_root=video_root,
        video_suffix=video_suffix,
        predictions=predictions,
    )
    return to_dataset(labelled, json_file, class_names, list_file)


def read_label_studio(
    json_file: str | os.PathLike,
    report: Report,
    *,
    image_root: str | os.PathLike | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    predictions: bool = False,
) -> LabelledSet:
    """What a file holds; arguments as of `load_label_studio`, and `report`, which takes the faults."""
    counted = Counted()
    tasks = parse_label_studio(json_file, report, counted, predictions)
    root = FrameRoot(Path(json_file).parent if image_root is None else image_root, video_root, video_suffix)
    videos: list[LabelledVideo] = []
    for task in tasks:
        video = LabelledVideo(task.names[0], str(json_file))
        try:
            require_new_name(video.name, videos, task.place)
            found = root.frames(task.names, task.place, alone=len(tasks) == 1)
        except Fault as fault:
            report(fault)
            continue
        video.in_file, video.length = found.in_file, found.length
        video.frames = {index: LabelledFrame(file, found.size) for index, file in sorted(found.files.items())}
        videos.append(video)
        numbers = sorted(video.frames)
        for track, region in enumerate(task.regions):
            _add_region(video, numbers, track, region, report, counted)
    for text in counted.texts():
        logger.warning("%s: %s", json_file, text)
    return LabelledSet(names_met(videos), videos)


def _add_region(
    video: LabelledVideo, numbers: Sequence[int], track: int, region: ParsedRegion, report: Report, counted: Counted
) -> None:
    keys = []
    for key in region.keys:
        if key.frame in video.frames:
            keys.append(key)
            continue
        value = f"frame {key.frame + 1} of video {video.name!r}, which has {len(video.frames)} frames"
        fault = Fault.at(key.place, value, "one of its frames", "video_length", "give the right video")
        report_of_frame(report, fault, video.name, key.frame)
    if region.frames_count not in (None, video.length):
        # Its browser counts by duration and rate: what was drawn in one frame may be another one here.
        what = f"regions of {video.name!r} say framesCount {region.frames_count}, but it has {video.length} frames"
        counted.add(f"{what}: see whether boxes are shifted", region.place)
    for key, made in fill_track(keys, numbers):
        if made:
            kind = "interpolated between keyframes" if made == "interpolated" else "held until the video ends"
            counted.add(f"boxes {kind}", key.place)
        height, width = video.frames[key.frame].size
        x1, y1, x2, y2 = key.box
        box = (x1 / 100 * width, y1 / 100 * height, x2 / 100 * width, y2 / 100 * height)
        if key.rotation % 360:
            # In pixels: percents of width and height are of different length.
            box = around(box, key.rotation, about_centre=False)
            counted.add("rotated boxes replaced by upright ones around them", key.place)
        video.frames[key.frame].objects.append(LabelledObject(key.place, region.label, box, track))
