"""Datasets that are made of other registered datasets."""

from collections.abc import Callable
from typing import Any

from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets.video_index import as_video_dicts
from vod2.errors import UserError

# What a derived dataset does not take over: its own name, and what checks the files of the other as they are written.
_OWN_METADATA = {"name", "check_source", "thing_classes"}


def register_derived(name: str, source_name: str, change: Callable[[list[dict]], list[dict]], **metadata: Any) -> None:
    """Register the dataset `name`, which is what `change` makes of another one; nothing is read before it is used.

    Args:
        name: in the DatasetCatalog.
        source_name: a registered dataset, whose metadata (evaluator, classes ...) is taken over.
        change: takes its video dataset dicts (see `as_video_dicts`), whose lists and annotations it must leave alone,
            and returns new ones.
        metadata: more of it.

    Raises:
        UserError: `source_name` is not registered.
    """
    if source_name not in DatasetCatalog.list():
        raise UserError(f"{name} is made of the dataset {source_name!r}, which is not registered: register it before")
    source = MetadataCatalog.get(source_name)

    def dicts() -> list[dict]:
        records = as_video_dicts(DatasetCatalog.get(source_name))
        if hasattr(source, "thing_classes"):  # some are known only when the annotations have been read
            MetadataCatalog.get(name).set(thing_classes=source.thing_classes)
        return change(records)

    DatasetCatalog.register(name, dicts)
    inherited = {key: value for key, value in source.as_dict().items() if key not in _OWN_METADATA}
    MetadataCatalog.get(name).set(**{"evaluator_type": "vid"} | inherited | metadata)
    if hasattr(source, "thing_classes"):
        MetadataCatalog.get(name).set(thing_classes=source.thing_classes)


def register_every_nth(name: str, source_name: str, n: int) -> None:
    """Register the dataset `name`: frames 0, n, 2n ... of each video of another dataset.

    They are the frames to train on, or to detect and evaluate; the others are still their context, read from the video.
    The groups of speed compare an object with itself within 10 frames, of which there are fewer then.

    Args:
        name: in the DatasetCatalog.
        source_name: a registered dataset of videos, with `video_file` or `frame_template` in its dicts.
        n: at least 1.

    Raises:
        UserError: `source_name` is not registered, or `n` is below 1; when used: its dicts do not tell where the frames
            between are.

    Example:
        >>> from vod2.data.datasets import register_every_nth
        >>> video = {"video_id": "a", "video_file": "a.mp4", "height": 4, "width": 6}
        >>> _ = DatasetCatalog.register("film", lambda: [{**video, "frame_index": t} for t in range(25)])
        >>> register_every_nth("film_every10", "film", 10)
        >>> [(record["frame_index"], record["video_length"]) for record in DatasetCatalog.get("film_every10")]
        [(0, 25), (10, 25), (20, 25)]
    """
    if n < 1:
        raise UserError(f"{name}: every {n}-th frame of {source_name}, expected a number of at least 1")

    def choose(records: list[dict]) -> list[dict]:
        incomplete = next((record for record in records if n > 1 and not _tells_all_frames(record)), None)
        if incomplete is not None:
            raise UserError(
                f"{name}: video {incomplete['video_id']!r} of {source_name} has neither video_file nor frame_template, "
                "without which the frames that are left out cannot be context: add one where the dataset is registered"
            )
        # `video_length` stays that of the video: the frames between are still its context.
        return [record for record in records if record["frame_index"] % n == 0]

    register_derived(name, source_name, choose)


def _tells_all_frames(record: dict) -> bool:
    return "video_file" in record or "frame_template" in record or record["video_length"] == 1
