"""VOD-Synth 1 as registered datasets: its videos and stills, refused where they are of another version."""

import os

from vod2.data.datasets.common import register_frames
from vod2.data.datasets.imagenet_det import find_det_list, load_imagenet_det
from vod2.data.datasets.imagenet_vid import XmlAnnotations, default_classes, find_list, load_imagenet_vid
from vod2.data.synthetic.vod_synth import BENCHMARK, SIZES, VodSynth, check_version
from vod2.errors import UserError
from vod2.package_files import command_line

VOD_SYNTH_PARTS: tuple[str, ...] = ("train", "train_all", "val", "det")


def register_vod_synth(name: str, root: str | os.PathLike, part: str, size: str) -> None:
    """Register the dataset `name`; nothing is read before it is used. Arguments as in `load_vod_synth`."""
    root, class_names = str(root), list(SIZES[size].class_names)
    source: dict[str, object] = {"format": "imagenet_det", "path": root}
    metadata = {}
    if part != "det":
        split, every_frame = _split(part)
        source = {"format": "imagenet_vid", "path": root, "split": split, "class_names": class_names}
        source |= {"every_frame": True} if every_frame else {}
        metadata["frame_annotations"] = XmlAnnotations(root, tuple(class_names))
    register_frames(
        name,
        lambda: load_vod_synth(root, part, size, name),
        thing_classes=class_names,
        evaluator_type="vid",
        image_root=root,
        check_source=source,
        **metadata,
    )


def load_vod_synth(root: str | os.PathLike, part: str, size: str, name: str) -> list[dict]:
    """Read a part of the benchmark.

    Args:
        root: folder that tools/make_synthetic.py has written.
        part: "train" (15 frames of each training video), "train_all" (every frame), "val", or "det" (the stills).
        size: that the folder should hold, such as "tiny".
        name: of the dataset, for messages.

    Returns:
        Dicts as of `load_imagenet_vid`, or of `load_imagenet_det` for the stills.

    Raises:
        UserError: the folder is not there, is broken or not complete, or holds another version or size.
    """
    remedy = f"make it with {command_line('synthetic')} --benchmark {BENCHMARK} --size {size} --output {root}"
    # First of all, as the lists and classes of another version would be read without complaint.
    check_version(root, size, remedy)
    _require_lists(root, SIZES[size], remedy)
    class_names = default_classes(root)
    if part == "det":
        return load_imagenet_det(root, name=name, class_names=class_names, remedy=remedy)
    split, every_frame = _split(part)
    return load_imagenet_vid(root, split, class_names, every_frame=every_frame, name=name, remedy=remedy)


def _require_lists(root: str | os.PathLike, synth: VodSynth, remedy: str) -> None:
    """The lists are written last: without them the set is a part, which the readers of ImageNet would take for all."""
    if not os.path.isdir(root):
        return
    lists = [find_list(root, "train"), find_list(root, "val")]
    if synth.stills:
        lists.append(find_det_list(root))
    if None in lists:
        raise UserError(f"{root}: the set is not complete, its lists are missing: {remedy}")


def _split(part: str) -> tuple[str, bool]:
    """The split of a part of videos, and whether it has every frame."""
    if part not in VOD_SYNTH_PARTS or part == "det":
        raise ValueError(f"part={part!r}: expected one of {VOD_SYNTH_PARTS}")
    return part.removesuffix("_all"), part.endswith("_all")
