"""Registers what was found: in this process, and by a file for --register in later ones."""

import hashlib
import json
import pprint
from collections.abc import Mapping, Sequence
from typing import Any

from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.checks import FORMATS
from vod2.data.datasets.derived import register_derived
from vod2.data.datasets.video_index import as_video_dicts
from vod2.data.discovery.layouts import REGISTER, Layout
from vod2.data.discovery.splitting import first_frames, split_videos
from vod2.errors import UserError


def register_data(
    name: str,
    format: str,
    parts: Mapping[str, Mapping[str, Any]],
    val_share: float = 0.25,
    val_frames: int | None = None,
) -> None:
    """Register the datasets `<name>_train` and `<name>_val`; nothing is read before one is used.

    Those of an earlier call are replaced. The val is evaluated as ImageNet VID is, whatever its format suggests.

    Args:
        name: begins their names.
        format, parts: of a `Layout`. Of one part without a val, videos are held out as `split_videos` says; its whole
            is `<name>_all`.
        val_share: of the videos that are held out then, in (0, 1).
        val_frames: about how many frames the val has at most, the first ones of each video; None for all.

    Raises:
        UserError: the format is unknown, or a number is out of its range.
    """
    if format not in REGISTER:
        raise UserError(f"format {format!r} is unknown, expected one of {', '.join(REGISTER)}")
    if not 0 < val_share < 1:
        raise UserError(f"the share of videos to hold out is {val_share}, expected a number between 0 and 1")
    if val_frames is not None and val_frames < 1:
        raise UserError(f"the number of held-out frames is {val_frames}, expected at least 1")

    def few(records: list[dict]) -> list[dict]:
        return records if val_frames is None else first_frames(records, val_frames)

    for part in ("train", "val", "all", "val_all"):
        if f"{name}_{part}" in DatasetCatalog.list():
            DatasetCatalog.remove(f"{name}_{part}")
            MetadataCatalog.remove(f"{name}_{part}")  # the classes of other data
    if "val" in parts:
        REGISTER[format](f"{name}_train", **parts["train"])
        REGISTER[format](f"{name}_val_all", **parts["val"])
        register_derived(f"{name}_val", f"{name}_val_all", few, evaluator_type="vid")
    else:
        (arguments,) = parts.values()
        REGISTER[format](f"{name}_all", **arguments)
        register_derived(
            f"{name}_train", f"{name}_all", lambda records: split_videos(records, val_share).train(records)
        )
        register_derived(
            f"{name}_val",
            f"{name}_all",
            lambda records: few(split_videos(records, val_share).held_out(records)),
            evaluator_type="vid",
        )


def registration_text(name: str, layout: Layout, val_share: float, val_frames: int | None) -> str:
    """A Python file that calls `register_data`, for --register of all commands; arguments as there."""
    arguments = {"format": layout.format, "parts": layout.parts, "val_share": val_share, "val_frames": val_frames}
    lines = "".join(f"    {key}={pprint.pformat(value, width=100)},\n" for key, value in arguments.items())
    return (
        f'"""Registers {name}_train and {name}_val: give this file to other commands with --register."""\n\n'
        "from vod2.data.discovery import register_data\n\n"
        f"register_data(\n    {name!r},\n{lines})\n"
    )


def load_parts(name: str) -> dict[str, list[dict]]:
    """The video dataset dicts of "train" and "val" of what `register_data` has registered."""
    return {part: as_video_dicts(DatasetCatalog.get(f"{name}_{part}")) for part in ("train", "val")}


def video_lengths(name: str) -> dict[str, int]:
    """{video id: frames} of the videos of the val, where `val_frames` and cuts do not end them."""
    whole = f"{name}_val_all" if f"{name}_val_all" in DatasetCatalog.list() else f"{name}_all"
    return {record["video_id"]: record["video_length"] for record in as_video_dicts(DatasetCatalog.get(whole))}


def common_classes(name: str, layout: Layout) -> Layout:
    """The layout with the same classes in the same order in all parts: `layout` itself, where they are.

    A file often lists only the classes that occur in it, in an order of its own.

    Args:
        name: what `layout` was registered as.

    Raises:
        UserError: they differ, and the format cannot be told its classes.
    """
    if len(layout.parts) == 1:
        return layout
    lists = []
    for part in ("train", "val_all"):
        DatasetCatalog.get(f"{name}_{part}")  # some are known only when the annotations have been read
        lists.append(list(MetadataCatalog.get(f"{name}_{part}").thing_classes))
    if lists[0] == lists[1]:
        return layout
    if "class_names" not in FORMATS[layout.format].options:
        raise UserError(f"the parts have other classes, {', '.join(lists[0])} and {', '.join(lists[1])}: fix the data")
    names = list(dict.fromkeys([*lists[0], *lists[1]]))
    parts = {part: {**arguments, "class_names": names} for part, arguments in layout.parts.items()}
    return layout._replace(parts=parts)


def digest_of(parts: Mapping[str, Sequence[dict]]) -> str:
    """SHA-256 of the frames and objects of parts: it changes if an annotation does."""
    digest = hashlib.sha256()
    for part, records in parts.items():
        for record in records:
            objects = [(note["category_id"], [*map(float, note["bbox"])]) for note in record.get("annotations", [])]
            frame = [part, record["video_id"], record["frame_index"], record["video_length"], objects]
            digest.update(json.dumps(frame).encode())
    return digest.hexdigest()
