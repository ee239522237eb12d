"""Videos with annotations in one JSON file, of either of two kinds that are told apart by their keys.

COCO-style video: each frame is an image of its own.

    {"videos":      [{"id", "name"}],
     "images":      [{"id", "video_id", "frame_id" (or "frame_index"), "file_name", "height", "width"}],
     "annotations": [{"image_id", "category_id", "bbox": xywh, "instance_id" (or "track_id"), "iscrowd"}],
     "categories":  [{"id", "name"}]}

YouTube-VIS: each object is annotated through its whole video, and there are no "images".

    {"videos":      [{"id", "file_names": [...], "length", "height", "width"}],
     "annotations": [{"id", "video_id", "category_id", "bboxes": [xywh or null for each frame], "iscrowd"}],
     "categories":  [{"id", "name"}]}
"""

import logging
import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from vod2.data.datasets.coco_parser import ParsedFile, ParsedFrame, ParsedVideo, parse_coco_video
from vod2.data.datasets.common import (
    BoxCheck,
    VideoDataset,
    annotation_dict,
    class_ids,
    keep_listed,
    register_dataset,
    video_file,
    without_list,
)
from vod2.data.datasets.faults import Fault
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.data.datasets.frame_files import template_of
from vod2.errors import UserError

_LOGGER = logging.getLogger(__name__)


def register_coco_video(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        json_file, image_root, class_names, options: see `load_coco_video`. Without `class_names`, the metadata gets
            `thing_classes` when the dataset is first used.
    """
    register_dataset(
        name,
        lambda: load_coco_video(json_file, image_root, class_names, **options),
        class_names,
        video_json=str(json_file),
        image_root=None if image_root is None else str(image_root),
        frame_annotations=LoadedAnnotations(
            load_coco_video,
            {"json_file": json_file, "image_root": image_root, "class_names": class_names} | without_list(options),
        ),
        check_source={
            "format": "coco_video",
            "path": str(json_file),
            "image_root": image_root,
            "class_names": class_names,
            **options,
        },
    )


def load_coco_video(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str = ".mp4",
    first_frame: int = 0,
    list_file: str | os.PathLike | None = None,
    group_keys: Sequence[str] = (),
    key_flag: str | None = None,
) -> VideoDataset:
    """Read a JSON file of either kind, told apart by its keys (see the module).

    Args:
        json_file: the annotations; packed, if its name ends in .gz.
        image_root: folder that the file names are relative to; None looks for the first frame beside `json_file`, in
            a folder images beside it or beside its folder, and in the folder above (`find_image_root`).
        class_names: names of the categories to keep, by category id, among them perhaps some that do not occur in the
            file, if none of its own is left out; None for all, in the order of their ids.
        video_root: take the frames from video files, <video_root>/<name of the video><video_suffix>, rather than
            from images. A video without a name goes by the folder of its frames, or else by its id.
        video_suffix: of the video files.
        first_frame: what "frame_id" counts from, 0 or 1.
        list_file: JSON list of the image ids to take; None for all.
        group_keys: keys of videos and images, such as "weather", whose values name groups that a frame belongs to.
        key_flag: take only images with this key true, such as mmtracking's "is_vid_train_frame", 15 of each video of
            ImageNet VID; the others are supports. None for all images.

    Returns:
        The dicts, one for each image, or each frame of a YouTube-VIS video, video after video; and the class names.
        Frames between them, as in TAO, where each thirtieth is annotated, are supports, too, if their images are there
        and numbered alike; a warning says where `key_flag` leaves out frames that cannot be found so.
        With `group_keys` each has `groups`, names in lower case, those of its video before its own. Boxes are clipped
        to the image, those without area dropped, and a warning counts both. `track_id` is absent where a COCO-style
        annotation has none. Without "annotations" in the JSON (a test set), the dicts have none.

    Raises:
        UserError: the file is missing or not as above; names the file, the entry and the value.
    """
    parsed = parse_coco_video(
        json_file,
        # Objects of other categories are not read, so that their faults stop nobody.
        keep=class_names,
        in_files=video_root is not None,
        first_frame=first_frame,
        group_keys=group_keys,
        image_root=image_root,
        key_flag=key_flag,
    )
    ids = _category_ids(parsed.categories, class_names, json_file)
    suffix = None if video_root is None else video_suffix
    folder = find_image_root(parsed, json_file, image_root) if video_root is None else video_root
    dicts = list(_dicts(parsed, ids, folder, suffix, groups=bool(group_keys)))
    if not dicts:
        raise UserError(f"{json_file}: expected frames, found none: check that it is the right file")
    # `ids` is in the order of the category ids.
    return VideoDataset(keep_listed(dicts, list_file), list(ids))


def find_image_root(
    parsed: ParsedFile, json_file: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> str | os.PathLike:
    """The folder that the names of images are relative to: `image_root`, or where the first frame is.

    Without a frame that is there it is the folder of the file.
    """
    if image_root is not None:
        return image_root
    beside = os.path.dirname(os.path.abspath(json_file))
    above = os.path.dirname(beside)
    frames = (frame for video in parsed.videos for _, frame in sorted(video.frames.items()))
    first = next((frame.file_name for frame in frames if frame.file_name is not None), None)
    if first is not None:
        for folder in (beside, os.path.join(beside, "images"), os.path.join(above, "images"), above):
            if os.path.isfile(os.path.join(folder, first)):
                return folder
    return beside


def _category_ids(
    categories: dict[Hashable, str], class_names: Sequence[str] | None, json_file: str | os.PathLike
) -> dict[str, int]:
    """{name: category id} of the categories to keep."""
    if class_names is None:
        # Ids that are texts cannot be compared with those that are numbers.
        kept = sorted(categories, key=lambda key: (isinstance(key, str), key))
        names = [categories[key] for key in kept]
        if len(set(names)) < len(names):
            once = list(dict.fromkeys(names))
            raise UserError(
                f"{json_file}: the names of the categories are {', '.join(map(repr, names))}, expected each once: "
                f"rename one, or where those of a name are one class, give class_names={once}"
            )
        return class_ids(names, f"{json_file}: the names of the categories")
    ids = class_ids(class_names, "class_names")
    require_categories(class_names, categories, json_file)
    return ids


def require_categories(
    class_names: Sequence[str], categories: dict[Hashable, str], json_file: str | os.PathLike
) -> None:
    """Raises UserError if the file has no category of one of the names, and others that are left out.

    A tool that lists only the classes that occur writes fewer categories than there are; none is left out then.
    """
    unknown, left_out = set(class_names) - set(categories.values()), set(categories.values()) - set(class_names)
    if unknown and left_out:
        raise UserError(
            f"{json_file}: class {min(unknown)!r} is not among its categories, which are "
            f"{', '.join(categories.values())}: fix class_names"
        )


def _dicts(
    parsed: ParsedFile, ids: dict[str, int], root: str | os.PathLike, video_suffix: str | None, groups: bool
) -> Iterator[dict]:
    """The dicts of all frames, video after video.

    Args:
        root: folder of the images, or of the video files where there is a `video_suffix`.
    """
    boxes = BoxCheck()
    without = []  # videos whose other frames cannot be found
    for video in parsed.videos:
        taken = sorted(index for index, frame in video.frames.items() if frame.is_key)
        template = _template(video, taken, root) if video_suffix is None else {}
        if len(taken) < len(video.frames) and video_suffix is None and not template:
            without.append(video.name)
        for index in taken:
            frame = video.frames[index]
            if video_suffix is not None:
                source = {"video_file": video_file(root, video.name, video_suffix)}
            else:
                assert frame.file_name is not None  # only frames of video files have none
                source = {"file_name": os.path.join(root, frame.file_name)}
            record = _record(video, index, source, groups) | template
            if parsed.annotated:
                record["annotations"] = list(_annotations(frame, ids, boxes))
            yield record
    # At the end, as one warning for the whole file.
    boxes.warn()
    if without:
        _LOGGER.warning(
            "%d videos, first %r: images are not numbered like their frames, so that only key frames are supports",
            len(without),
            without[0],
        )


def _template(video: ParsedVideo, taken: Sequence[int], root: str | os.PathLike) -> dict:
    """How frames that are not taken are found, as keys of a dict; none if there are none, or they cannot be."""
    names = {index: video.frames[index].file_name for index in taken}
    found = template_of({index: os.path.join(root, name) for index, name in names.items() if name is not None})
    return {} if found is None else {"frame_template": found[0], "frame_offset": found[1]}


def _record(video: ParsedVideo, index: int, source: dict, groups: bool) -> dict:
    frame = video.frames[index]
    assert frame.size is not None  # without one a dataset stops
    record = {
        "image_id": f"{video.name}/{index:06d}",
        "height": frame.size[0],
        "width": frame.size[1],
        "video_id": video.name,
        "frame_index": index,
        **source,
    }
    if groups:
        record["groups"] = frame.groups
    return record | {"video_length": video.length}


def _annotations(frame: ParsedFrame, ids: dict[str, int], boxes: BoxCheck) -> Iterator[dict]:
    """The annotations of a frame, clipped to its image."""
    assert frame.size is not None  # without one a dataset stops
    height, width = frame.size
    for thing in frame.objects:
        if thing.name is None:
            value, expected = f"category_id {thing.category!r:.80} is not among the categories", "the id of one"
            raise Fault.at(thing.place, value, expected, "unknown_class")
        box = boxes.clip(thing.box, height, width, thing.place)
        if box is not None:
            yield annotation_dict(box, ids[thing.name], thing.track, thing.occluded, thing.iscrowd)
