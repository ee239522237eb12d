"""What a training and its evaluation need of datasets and of the disk, checked before a model is built.

Every fault is found and told in one list: dataset, frame, field, value, what was expected, what to do.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from vod2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from vod2.data import check_context
from vod2.data.datasets.common import require_registered
from vod2.data.datasets.records import RecordCheck, is_whole, place_of
from vod2.errors import UserError
from vod2.evaluation.evaluated import load_evaluated_dataset
from vod2.evaluation.frame_kinds import read_frame_kinds
from vod2.evaluation.mot_metrics import check_mot
from vod2.modeling import asks_for_ids
from vod2.modeling.precision import check_precision
from vod2.package_files import command_line

_LOGGER = logging.getLogger("vod2.engine")

SAMPLED = 2000
"""Frames of a dataset whose files and annotations are looked at: all, or so many, evenly spread."""

_LEAST_FREE = 256 * 2**20  # bytes


def check_datasets(cfg: CfgNode, names: Sequence[str], load: bool = False) -> None:
    """Every dataset must be registered, with class names, and no more of them than MODEL.ROI_HEADS.NUM_CLASSES.

    Args:
        load: load those whose class names stand in their files; otherwise these are not known, and not checked.

    Raises:
        UserError: otherwise.
    """
    for name in names:
        faults = _registration_faults(name)
        if not faults and load and MetadataCatalog.get(name).get("thing_classes") is None:
            DatasetCatalog.get(name)
            faults = _class_faults(cfg, name)
        elif not faults and MetadataCatalog.get(name).get("thing_classes") is not None:
            faults = _class_faults(cfg, name)
        if faults:
            raise UserError(faults[0])


def check_training(cfg: CfgNode) -> None:
    """Check everything that a training and its evaluation need, as far as it can be known before.

    - The datasets of DATASETS.TRAIN and TEST can be loaded, and have the same classes in the same order.
    - Of at most `SAMPLED` frames of each, evenly spread and the same in every run, the files are there and the fields
      are such as training and evaluation take; ids of all frames are compared. Images are not decoded:
      tools/check_dataset.py does that.
    - The evaluators can be made, and OUTPUT_DIR can be written, with some space left.

    It takes the time of loading each dataset once, and some seconds.

    Raises:
        UserError: lists every fault.
    """
    faults: list[str] = []
    if not cfg.DATASETS.TRAIN:
        faults.append("DATASETS.TRAIN is empty: name at least one registered dataset, such as 'synthetic_train'")
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    has_tracks = False
    for name in names:
        found, tracked = _check_dataset(cfg, name)
        faults += found
        has_tracks = has_tracks or (tracked and name in cfg.DATASETS.TRAIN)
    faults += _order_faults(cfg, names)
    if asks_for_ids(cfg) and cfg.DATASETS.TRAIN and not has_tracks and not faults:
        faults.append(
            f"no annotation of {', '.join(cfg.DATASETS.TRAIN)} has a track_id, but "
            f"{cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME} is trained on which object is which in other frames: add "
            "them, or choose another MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME"
        )
    faults += _output_faults(cfg.OUTPUT_DIR)
    _raise_all(faults, "the training")


def check_evaluation(cfg: CfgNode) -> None:
    """Check what an evaluation in DATASETS.TEST needs, as `check_training` does.

    Raises:
        UserError: lists every fault.
    """
    faults: list[str] = []
    for name in dict.fromkeys(cfg.DATASETS.TEST):
        faults += _check_dataset(cfg, name)[0]
    faults += _output_faults(cfg.OUTPUT_DIR)
    _raise_all(faults, "the evaluation")


def _raise_all(faults: Sequence[str], what: str) -> None:
    """One UserError of all faults; nothing, where there are none."""
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        numbered = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(faults, start=1))
        raise UserError(f"{what} cannot start, {len(faults)} faults:\n{numbered}")


def _registration_faults(name: str) -> list[str]:
    try:
        require_registered(name)
    except UserError as error:
        return [str(error)]
    return []


def _class_faults(cfg: CfgNode, name: str) -> list[str]:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return [f"dataset {name!r} has no class names: set thing_classes in its metadata"]
    if isinstance(classes, str) or not all(isinstance(one, str) for one in classes) or not len(classes):
        return [f"dataset {name!r} has thing_classes {classes!r:.80}, expected a list of names: fix its metadata"]
    if len(set(classes)) < len(classes):
        return [f"dataset {name!r} has thing_classes {classes!r:.200}, expected each name once: fix its metadata"]
    if len(classes) > cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        return [
            f"dataset {name!r} has {len(classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}: set it to {len(classes)}"
        ]
    return []


def _order_faults(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """A label is a place in the list of names: all datasets must have the same list."""
    known = {name: MetadataCatalog.get(name).get("thing_classes") for name in names if name in DatasetCatalog.list()}
    first = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    if known.get(first) is None:
        return []
    wanted, faults = list(known[first]), []
    for name, classes in known.items():
        if classes is None or list(classes) == wanted:
            continue
        classes = list(classes)
        label = next((i for i, pair in enumerate(zip(wanted, classes, strict=False)) if pair[0] != pair[1]), None)
        if label is None:
            difference = f"has {len(classes)} of the classes that {first} has {len(wanted)} of"
        else:
            difference = f"calls label {label} {classes[label]!r}, {first} calls it {wanted[label]!r}"
        faults.append(
            f"{name} and {first} have different thing_classes: {name} {difference}; datasets are trained on and "
            "evaluated together only with the same classes in the same order: register it with "
            f"class_names={wanted!r:.300}"
        )
    return faults


def _check_dataset(cfg: CfgNode, name: str) -> tuple[list[str], bool]:
    """What is wrong with a dataset, and whether any of its objects has a track."""
    faults = _registration_faults(name)
    if faults:
        return faults, False
    try:
        records = DatasetCatalog.get(name)
    except UserError as error:
        return [str(error)], False
    # What readers of files raise; anything else is a bug of a function, and keeps its traceback.
    except (OSError, ValueError, KeyError, AssertionError) as error:
        _LOGGER.info("dataset %s cannot be loaded", name, exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [f"dataset {name!r} cannot be loaded ({reason}): fix what it was registered with"], False
    if not isinstance(records, Sequence) or not len(records):
        return [
            f"dataset {name!r} is {records!r:.60}, expected a list of dicts: check what it was registered with"
        ], False
    faults = _class_faults(cfg, name)
    rows = evenly_spaced(len(records), SAMPLED)
    sample = [records[row] for row in rows]
    is_tested = name in cfg.DATASETS.TEST
    checker = RecordCheck(name, MetadataCatalog.get(name).get("thing_classes"), is_tested)
    for row, record in zip(rows, sample, strict=True):
        checker.look_at(row, record)
    found = checker.faults()
    faults += found
    if not found:  # else it need not have the fields that are compared here
        faults += _faults_of_all(name, records, is_tested)
    if is_tested and not faults:
        faults += _evaluation_faults(cfg, name, records, sample)
    return faults, any(_tracked(record) for record in records if isinstance(record, Mapping))


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` rows, with the first and the last one.

    Example:
        >>> evenly_spaced(3, 10), evenly_spaced(101, 3)
        ([0, 1, 2], [0, 50, 100])
    """
    if count <= limit:
        return list(range(count))
    return [i * (count - 1) // (limit - 1) for i in range(limit)]


def _tracked(record: Mapping) -> bool:
    return any(
        isinstance(note, Mapping) and is_whole(note.get("track_id")) and note["track_id"] >= 0
        for note in record.get("annotations") or ()
    )


def _faults_of_all(name: str, records: Sequence[Mapping], is_tested: bool) -> list[str]:
    """What only all frames together show."""
    faults = []
    lacking = next((record for record in records if record.get("annotations") is None), None)
    if lacking is not None and any(record.get("annotations") is not None for record in records):
        faults.append(
            f"{name}: {place_of(lacking)} has no annotations, which other frames have, expected [] where there is no "
            "object: add it where the dataset is registered"
        )
    frames: set[tuple[Hashable, Any]] = set()
    images: set[Hashable] = set()
    twice = "comes twice, expected each frame_index of a video once: fix what it was registered with"
    alike = "which another frame has, too, expected one for each frame, such as 'video/000003': evaluations go by it"
    for record in records:
        if "video_id" not in record:
            continue
        frame = record["video_id"], record.get("frame_index")
        if frame in frames:
            faults.append(f"{name}: {place_of(record)} {twice}")
            break
        frames.add(frame)
    for record in records if is_tested else ():
        image = record.get("image_id")
        if image in images:
            faults.append(f"{name}: {place_of(record)}: image_id is {image!r:.60}, {alike}")
            break
        images.add(image)
    if is_tested and not any(record.get("annotations") for record in records):
        faults.append(
            f"{name}: no frame has annotations, expected objects that detections can be held against: leave it out of "
            f"DATASETS.TEST, or detect in it with {command_line('detect')}"
        )
    return faults


def _evaluation_faults(cfg: CfgNode, name: str, records: Sequence[dict], sample: Sequence[dict]) -> list[str]:
    """What the evaluators would stop at after the training; of the ground truth, the sample is tried."""
    faults = []
    metadata = MetadataCatalog.get(name)
    try:
        check_context(cfg.TEST.CONTEXT)
        check_precision(cfg.TEST.PRECISION)
        check_mot(cfg, is_linked=bool(cfg.MODEL.VIDEO.LINKER.NAME) and cfg.TEST.CONTEXT == "own")
        if cfg.TEST.CONTEXT == "foreign" and len({record.get("video_id") for record in records}) < 2:
            faults.append(f"{name}: TEST.CONTEXT is 'foreign', expected at least two videos: there is one")
        if metadata.get("evaluator_type") in ("vid", "uavdt"):
            is_vid = metadata.get("evaluator_type") == "vid"
            protocol, groups = (cfg.TEST.VID_PROTOCOL, cfg.TEST.VID_GROUPS) if is_vid else ("fixed", "frames")
            kinds = (cfg.TEST.FRAME_KINDS if is_vid else "") or metadata.get("frame_kinds")
            if kinds:
                read_frame_kinds(kinds, records)
            load_evaluated_dataset(name, protocol, groups, dataset=sample, without_kinds=True)
    except (ValueError, UserError) as error:
        faults.append(f"{name} cannot be evaluated: {error}")
    needs_names = cfg.TEST.COCO_AP or metadata.get("evaluator_type") not in ("vid", "uavdt")
    if needs_names and metadata.get("json_file") is None:
        nameless = next((record for record in records if "file_name" not in record), None)
        if nameless is not None:
            faults.append(
                f"{name}: {place_of(nameless)} has no file_name, which COCO's AP asks for: set it to that of the "
                "video, or TEST.COCO_AP to False"
            )
    return faults


def _output_faults(folder: str) -> list[str]:
    """OUTPUT_DIR is made, as the training would make it."""
    remedy = "give another OUTPUT_DIR"
    if not folder:
        return [f"OUTPUT_DIR is '', expected a folder: {remedy}"]
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [f"OUTPUT_DIR {folder!r} cannot be written ({error.strerror or error}): {remedy}"]
    if free < _LEAST_FREE:
        return [
            f"OUTPUT_DIR {folder!r} has {free // 2**20} MiB left, expected at least {_LEAST_FREE // 2**20}: free some "
            f"space, or {remedy}"
        ]
    return []
