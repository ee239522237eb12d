"""What a folder of exported parts says of itself."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vod2.bounded import load_json
from vod2.d2 import CfgNode
from vod2.engine import load_config
from vod2.errors import UserError
from vod2.export.graphs import Part
from vod2.modeling.roi_heads import DetectionSelection
from vod2.temporal import ScheduleUnion, SupportSchedule

MANIFEST, CONFIG = "export.json", "config.yaml"
_FORMAT = 1


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a part.

    Attributes:
        name: of the input or output in the file.
        dtype: as PyTorch names it, such as "float32".
        shape: its sizes, all of which are fixed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PartSpec:
    """A file of the folder: its name, and what goes in and comes out, in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def input(self, name: str) -> TensorSpec:
        """
        Raises:
            UserError: there is none of this name.
        """
        for spec in self.inputs:
            if spec.name == name:
                return spec
        names = [spec.name for spec in self.inputs]
        raise UserError(f"{MANIFEST}: {self.file} has the inputs {names}, expected {name!r}: export the detector again")


@dataclass(frozen=True)
class Manifest:
    """The content of `export.json`.

    Attributes:
        size: (height, width) of the images after resizing.
        lookahead: frames that a frame waits for.
        interval: distance of two keyframes; 0 for a method without any.
        class_names: by label; empty where they are not known.
        parts: {name: file}.
        input: what is done to a frame first, from INPUT: format ("BGR" or "RGB"), min_size, max_size, truncates
            (RESIZE_TRUNCATES).
        schedules: the parts of VIDEO.TEST_SCHEDULE as they run in a stream: name and arguments.
        selection: what `DetectionSelection` is made of: score_thresh, nms_thresh, topk, inclusive_boxes, keep_ties.

    A runner without vod2 needs the last three; `OnnxPredictor` reads the configuration.
    """

    size: tuple[int, int]
    lookahead: int
    interval: int
    class_names: tuple[str, ...]
    parts: dict[str, PartSpec]
    input: dict[str, Any] = field(default_factory=dict)
    schedules: tuple[dict[str, Any], ...] = ()
    selection: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)

    @staticmethod
    def read(folder: str | os.PathLike) -> "Manifest":
        """That of a folder.

        Raises:
            UserError: there is none, or it is broken, or of another version.
        """
        path = Path(folder) / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): expected a folder that `vod2 export` has written"
            ) from error
        try:
            content = load_json(text)
            version = content["format"]
            if version == _FORMAT:
                return _manifest(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is broken ({type(error).__name__}: {error}): export the detector again") from error
        raise UserError(f"{path} has the format {version!r}, expected {_FORMAT}: export the detector again")


def describe(
    parts: Sequence[Part],
    size: tuple[int, int],
    *,
    lookahead: int = 0,
    interval: int = 0,
    class_names: Sequence[str] = (),
    suffix: str = "",
) -> Manifest:
    """The manifest of parts, whose files are named after them, with a suffix. Runs each once."""
    specs = {}
    for part in parts:
        outputs = zip(part.outputs, part.run(), strict=True)
        specs[part.name] = PartSpec(f"{part.name}{suffix}", _described(part.inputs.items()), _described(outputs))
    return Manifest(size, lookahead, interval, tuple(class_names), specs)


def with_settings(manifest: Manifest, cfg: CfgNode, schedule: SupportSchedule) -> Manifest:
    """A manifest that also says what a runner without vod2 needs of the configuration and the schedule of a stream."""
    selection = DetectionSelection.from_config(cfg)
    conventions = selection.conventions
    parts = schedule.schedules if isinstance(schedule, ScheduleUnion) else (schedule,)
    return replace(
        manifest,
        input={
            "format": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "truncates": cfg.INPUT.RESIZE_TRUNCATES,
        },
        schedules=tuple(_arguments(part) for part in parts),
        selection={
            "score_thresh": selection.score_thresh,
            "nms_thresh": selection.nms_thresh,
            "topk": selection.topk,
            "inclusive_boxes": conventions.inclusive_boxes,
            "keep_ties": conventions.keep_ties,
        },
    )


def _arguments(schedule: SupportSchedule) -> dict[str, Any]:
    arguments: dict[str, Any] = {"name": type(schedule).__name__}
    for name in schedule.reads or ():
        value = getattr(schedule, name, None)  # schedules of others may call it otherwise
        if isinstance(value, bool | int | float | str):
            arguments[name] = value
    return arguments


def _described(tensors: Iterable[tuple[str, Tensor]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors
    )


def _manifest(content: dict[str, Any]) -> Manifest:
    parts = {}
    for name, part in content["parts"].items():
        parts[name] = PartSpec(os.path.basename(part["file"]), _specs(part["inputs"]), _specs(part["outputs"]))
    height, width = content["size"]
    return Manifest(
        (int(height), int(width)),
        int(content["lookahead"]),
        int(content["interval"]),
        tuple(map(str, content["class_names"])),
        parts,
        # Only for those who run the files without vod2.
        content.get("input", {}),
        tuple(content.get("schedules", ())),
        content.get("selection", {}),
    )


def _specs(entries: Sequence[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(str(entry["name"]), str(entry["dtype"]), tuple(map(int, entry["shape"]))) for entry in entries
    )


def read_config(folder: str | os.PathLike) -> CfgNode:
    """The configuration of the detector in a folder, on the CPU."""
    return load_config(os.fspath(Path(folder) / CONFIG), ["MODEL.DEVICE", "cpu"])
