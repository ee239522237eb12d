"""Any registered dataset, damaged while it is read."""

from vod2.d2 import BoxMode
from vod2.data.damage.bursts import Burst, DamageConfig, burst_at, moment_of
from vod2.data.damage.kinds import covered_share
from vod2.data.datasets.derived import register_derived

_LEAST_COVERED = 0.1  # share of a box from which on its object counts as occluded


def register_damaged(name: str, source_name: str, config: DamageConfig | None = None) -> None:
    """Register the dataset `name`: the frames of another one, damaged in bursts when they are read.

    Its dicts have `damage`, by which `vod2.data.clips.frames` damages every frame of their videos, whether it is
    detected, trained on or context; files stay as they are. What was done is recorded as {kind: strength}, in
    `deterioration` of the frame and of each of its annotations (beside what these have already). Occlusion
    concerns the objects that a bar hides: it is recorded of annotations only, from a tenth of their box on, and there
    the strength is the share of the box that is hidden. A still image is a video of one frame.

    The same video (by its id) is damaged alike in every dataset with the same `config`.

    Args:
        name: in the DatasetCatalog.
        source_name: a registered dataset.
        config: seed, share, kinds ...; None for the defaults.

    Raises:
        UserError: `source_name` is not registered.

    Example:
        >>> from vod2.d2 import DatasetCatalog
        >>> from vod2.data.datasets.damaged import register_damaged
        >>> box = {"bbox": [0, 0, 3, 3], "bbox_mode": 0, "category_id": 0}
        >>> video = {"video_id": "a", "video_file": "a.mp4", "height": 4, "width": 6, "annotations": [box]}
        >>> _ = DatasetCatalog.register("reel", lambda: [{**video, "frame_index": t} for t in range(300)])
        >>> register_damaged("reel_damaged", "reel", DamageConfig(kinds=("defocus",)))
        >>> notes = [record["annotations"][0].get("deterioration") for record in DatasetCatalog.get("reel_damaged")]
        >>> sum(note is not None for note in notes), notes[0] or notes[-1]
        (100, None)
    """
    config = DamageConfig() if config is None else config
    register_derived(
        name, source_name, lambda records: [_damage_record(record, config) for record in records], damage=str(config)
    )


def _damage_record(record: dict, config: DamageConfig) -> dict:
    frame = record["frame_index"]
    burst = burst_at(config, record["video_id"], record["video_length"], frame)
    # Every frame gets it, as a clean key frame may have damaged frames around it.
    record = {**record, "damage": config}
    if burst is None:
        return record
    if burst.kind != "occlusion":
        record["deterioration"] = _with_strongest(record.get("deterioration"), burst.kind, burst.strength)
    if "annotations" in record:
        record["annotations"] = [_damage_annotation(annotation, record, burst) for annotation in record["annotations"]]
    return record


def _damage_annotation(annotation: dict, record: dict, burst: Burst) -> dict:
    """A copy of an annotation that tells what happened to its object."""
    strength = burst.strength
    if burst.kind == "occlusion":
        moment = moment_of(record["damage"], record["video_id"], burst, record["frame_index"])
        box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
        strength = round(covered_share(box, max(record["height"], record["width"]), burst.strength, moment), 2)
        if strength < _LEAST_COVERED:
            return annotation
    return {**annotation, "deterioration": _with_strongest(annotation.get("deterioration"), burst.kind, strength)}


def _with_strongest(kinds: dict[str, float] | None, kind: str, strength: float) -> dict[str, float]:
    kinds = dict(kinds or {})
    # A video may have been recorded as damaged by the same kind before: the stronger one is what is seen.
    return kinds | {kind: max(strength, kinds.get(kind, 0.0))}
