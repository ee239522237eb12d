"""What the classes of a detector are called."""

import os
from collections.abc import Sequence

from vod2.bounded import load_json
from vod2.checkpoint import existing_weights
from vod2.checkpoint.files import stored_classes
from vod2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from vod2.data.datasets.common import lines_of, read_text
from vod2.data.datasets.faults import refuse
from vod2.data.datasets.yolo import read_class_names
from vod2.errors import UserError


def class_names_of(cfg: CfgNode, file: str | os.PathLike | None = None) -> list[str]:
    """The names of a detector's classes by label; [] where nobody knows them.

    They are those of `file`, or else those that MODEL.WEIGHTS brings from its training, or else those of the first test
    dataset.

    Args:
        cfg: MODEL.WEIGHTS, MODEL.ROI_HEADS.NUM_CLASSES, DATASETS.TEST.
        file: see `read_names`.

    Raises:
        UserError: their number is not MODEL.ROI_HEADS.NUM_CLASSES; or `file` is missing or has no names.
    """
    if file is not None:
        return _require_count(cfg, read_names(file), str(file))
    stored = _names_of_weights(cfg)
    if stored is not None:
        return _require_count(cfg, stored, cfg.MODEL.WEIGHTS)
    if not cfg.DATASETS.TEST:
        return []
    name = cfg.DATASETS.TEST[0]
    # Of a set that is not registered here, an empty entry would be made.
    known = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog.list() else None
    return [] if known is None else _require_count(cfg, list(known), f"dataset {name!r} of DATASETS.TEST")


def read_names(path: str | os.PathLike) -> list[str]:
    """The names in a file: a data.yaml with `names`, a JSON list, or a text with one in each line.

    Raises:
        UserError: it is missing or none of these; names it.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".yaml", ".yml"):
        return read_class_names(path)
    if suffix == ".json":
        try:
            names = load_json(read_text(path, "the list of classes"))
        except ValueError as error:
            raise UserError(f"{path}: broken JSON ({error}), expected a list of names: fix the file") from error
    else:
        names = [line.strip() for line in lines_of(path, "the list of classes", refuse) if line.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: it has {names!r:.80}, expected the names of the classes: give another file")
    return names


def require_same_names(cfg: CfgNode, names: Sequence[str]) -> None:
    """Refuse to evaluate weights in datasets that give their labels other names than their training did.

    Weights that bring no names fit any dataset.

    Args:
        cfg: MODEL.WEIGHTS.
        names: of datasets whose `thing_classes` are known.
    """
    weights = cfg.MODEL.WEIGHTS
    stored = _names_of_weights(cfg) or []
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes") or ()
        for label, (one, other) in enumerate(zip(stored, classes, strict=False)):
            if one == other:
                continue
            raise UserError(
                f"{weights} was trained with {one!r} as label {label}, which dataset {name!r} calls {other!r}: "
                f"register it with class_names={stored!r:.300}"
            )


def _names_of_weights(cfg: CfgNode) -> list[str] | None:
    """Those that MODEL.WEIGHTS brings; None where it brings none, is not given, or is not on this machine yet."""
    # NAME.pth may stand for NAME.safetensors, which has the names.
    weights = existing_weights(cfg.MODEL.WEIGHTS)
    return stored_classes(weights) if os.path.isfile(weights) else None


def _require_count(cfg: CfgNode, names: list[str], source: str) -> list[str]:
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(names) != count:
        raise UserError(
            f"{source} has {len(names)} class names ({', '.join(names):.100}), but MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{count}: give {count} names with --class-names FILE, or set NUM_CLASSES to the number of the model's "
            "classes"
        )
    return names
