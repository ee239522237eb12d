"""Streams of frames on ONNX Runtime: the graphs of a folder in the place of a model.

P: proposals of a frame, D: embedding, T: frames of a window, S: proposals of a support.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vod2.d2 import CfgNode
from vod2.engine.frame_detector import FramePreparation
from vod2.engine.predictor import schedule_of_stream
from vod2.engine.stream_predictor import StreamPredictor
from vod2.errors import UserError
from vod2.export.graphs import AGGREGATE, BETWEEN, DETECT, FRAME, KEYFRAME
from vod2.export.manifest import MANIFEST, Manifest, read_config
from vod2.export.session import OnnxGraph, require_packages
from vod2.modeling.roi_heads import DetectionSelection
from vod2.structures import Frame, ProposalSet, TemporalContext
from vod2.temporal import FrameMemory, SupportSchedule

_IMAGE, _MEMORY = "image", "memory"
_ROWS = ("boxes", "features", "objectness")
_AGAIN = "export the detector again"

Graph = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Tensors in, tensors out, by name: an `OnnxGraph`, or a `Part` in PyTorch."""


class OnnxPredictor(StreamPredictor):
    """`VideoPredictor` for a folder that `vod2 export` has written: the same streams, without the model.

    Resizing, windows, memory, thresholds and NMS are those of `VideoPredictor`, by the same code; the graphs run in
    ONNX Runtime.

    Args:
        folder: with `export.json`.
        providers: execution providers of ONNX Runtime, in the order in which they are tried; None for the CPU, with as
            many threads as PyTorch has.

    Raises:
        UserError: the folder is none of an export, a file is missing or broken, onnxruntime is not installed, or it has
            not one of the providers; in a step, a frame has another size after resizing than the graphs.
    """

    def __init__(self, folder: str | os.PathLike, providers: Sequence[str] | None = None) -> None:
        require_packages("onnxruntime")
        manifest = Manifest.read(folder)
        cfg = read_config(folder)
        graphs = {name: OnnxGraph(Path(folder) / part.file, providers) for name, part in manifest.parts.items()}
        schedule = schedule_of_stream(cfg, manifest.lookahead)
        super().__init__(graph_detector(cfg, manifest, graphs, schedule))


def graph_detector(
    cfg: CfgNode, manifest: Manifest, graphs: Mapping[str, Graph], schedule: SupportSchedule
) -> "GraphDetector":
    """The detector that the parts of a manifest are those of; `graphs` are its parts by name."""
    kinds = {FRAME: _WindowDetector, DETECT: _ImageDetector, KEYFRAME: _KeyframeDetector}
    kind = next((kind for name, kind in kinds.items() if name in manifest.parts), None)
    if kind is None:
        raise UserError(f"the export has the parts {sorted(manifest.parts)}, none of which begins a frame: {_AGAIN}")
    _require_inputs(manifest, kind.inputs)
    if BETWEEN in manifest.parts:
        _require_inputs(manifest, {BETWEEN: (_IMAGE, _MEMORY)})
    elif manifest.interval > 1:
        raise UserError(f"{MANIFEST}: keyframes every {manifest.interval} frames need a part {BETWEEN!r}: {_AGAIN}")
    if kind is _KeyframeDetector and manifest.interval < 1:
        raise UserError(f"{MANIFEST}: the interval of keyframes is {manifest.interval}, expected 1 or more: {_AGAIN}")
    return kind(cfg, manifest, graphs, schedule)


def _require_inputs(manifest: Manifest, inputs: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError if a part, or an input of it, is missing."""
    for part, names in inputs.items():
        if part not in manifest.parts:
            raise UserError(f"{MANIFEST}: it has the parts {sorted(manifest.parts)}, expected {part!r}, too: {_AGAIN}")
        for name in names:
            manifest.parts[part].input(name)


class GraphDetector:
    """A `PredictorDetector` of graphs: what those of all methods do.

    Attributes:
        inputs: {part: names of inputs} that it cannot do without.
    """

    inputs: Mapping[str, Sequence[str]] = {}

    def __init__(
        self, cfg: CfgNode, manifest: Manifest, graphs: Mapping[str, Graph], schedule: SupportSchedule
    ) -> None:
        self.manifest, self.graphs, self.schedule = manifest, graphs, schedule
        self.class_names: Sequence[str] = list(manifest.class_names)
        self.prepare = FramePreparation(cfg)
        self.selection = DetectionSelection.from_config(cfg)

    def close(self) -> None:
        del self.graphs

    def encode(self, frames: Sequence[tuple[FrameMemory, np.ndarray]]) -> None:
        for memory, frame in frames:
            self.remember(memory, memory.length or 0, self._image(frame))

    def remember(self, memory: FrameMemory, index: int, image: Tensor) -> None:
        """Put frame `index`, an image (1, 3, H', W') of the size that the graphs take, into a memory."""
        memory.put(self._encoded(memory.video, index, image))

    def scored(self, memory: FrameMemory, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (n, k, 4) and scores (n, K + 1) of a remembered frame, before any selection."""
        context = memory.context(index)
        boxes, scores, carry = self._run(memory.frame(index), context)
        memory.carry(carry)
        return boxes, scores

    def detect(self, memory: FrameMemory, index: int, size: tuple[int, int]) -> dict:
        boxes, scores = self.scored(memory, index)
        found = self.selection(boxes.flatten(1), scores, self.manifest.size)
        return {"instances": self.selection.conventions.rescaled(found, size)}

    def _image(self, frame: np.ndarray) -> Tensor:
        """BGR uint8 (H, W, 3) -> (1, 3, H', W') of the size that the graphs take."""
        image = self.prepare(frame)[None]
        height, width = image.shape[2:]
        if (height, width) != self.manifest.size:
            expected = "x".join(map(str, self.manifest.size))
            raise UserError(
                f"a frame of {frame.shape[0]}x{frame.shape[1]} pixels (height x width) becomes {height}x{width}, but "
                f"these files take {expected}: export the detector again with --size {height}x{width}"
            )
        return image

    def _encoded(self, video: str, index: int, image: Tensor) -> Frame:
        """What the memory keeps of a new frame: here its image."""
        return Frame(video, index, self.manifest.size, features={_IMAGE: image})

    def _run(self, key: Frame, context: TemporalContext) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Boxes (n, k, 4) and scores (n, K + 1) of the key frame, and what is carried to the next."""
        raise NotImplementedError


class _ImageDetector(GraphDetector):
    """A detector without other frames."""

    inputs = {DETECT: (_IMAGE,)}

    def _run(self, key: Frame, context: TemporalContext) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return *_valid_rows(self.graphs[DETECT]({_IMAGE: key.features[_IMAGE]})), {}


class _KeyframeDetector(GraphDetector):
    """A level 1 that carries a map from keyframe to keyframe, see `KeyframeSteps`."""

    inputs = {KEYFRAME: (_IMAGE, _MEMORY, "is_first")}

    def _run(self, key: Frame, context: TemporalContext) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        image, memory = key.features[_IMAGE], context.carry.get(_MEMORY)
        if key.index % self.manifest.interval:
            # Frame 0 of a stream is a keyframe, so that there is a memory.
            found = self.graphs[BETWEEN]({_IMAGE: image, _MEMORY: context.carry[_MEMORY]})
            return *_valid_rows(found), dict(context.carry)
        is_first = torch.tensor(memory is None)
        if memory is None:
            memory = torch.zeros(self.manifest.parts[KEYFRAME].input(_MEMORY).shape)
        found = self.graphs[KEYFRAME]({_IMAGE: image, _MEMORY: memory, "is_first": is_first})
        return *_valid_rows(found), {_MEMORY: found["new_memory"]}


class _WindowDetector(GraphDetector):
    """A level 2 that looks at the proposals of the frames of a window."""

    inputs = {
        FRAME: (_IMAGE,),
        AGGREGATE: tuple(f"{of}_{name}" for of in ("key", "support") for name in _ROWS) + ("support_valid",),
    }

    def _encoded(self, video: str, index: int, image: Tensor) -> Frame:
        found = self.graphs[FRAME]({_IMAGE: image})
        # Without padding, as the model's own memory has it.
        boxes, features, objectness = (found[name][found["valid"]] for name in _ROWS)
        proposals = ProposalSet.of_frame(boxes, features, objectness, self.manifest.size)
        return Frame(video, index, self.manifest.size, proposals=proposals)

    def _run(self, key: Frame, context: TemporalContext) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        shapes = self.manifest.parts[AGGREGATE].input
        proposals = key.require_proposals()
        inputs = {}
        for name, value in _tensors(proposals).items():
            inputs[f"key_{name}"] = _filled(value, len(proposals), shapes(f"key_{name}").shape)
        window, count = shapes("support_valid").shape
        supports = {}
        for name, value in _tensors(proposals).items():
            supports[name] = value.new_zeros(shapes(f"support_{name}").shape)
        valid = torch.zeros(window, count, dtype=torch.bool)
        for row, frame in enumerate(context.frames):
            support = frame.require_proposals()[:count]
            for name, value in _tensors(support).items():
                supports[name][row, : len(support)] = value
            valid[row, : len(support)] = True
        inputs |= {f"support_{name}": value for name, value in supports.items()} | {"support_valid": valid}
        found = self.graphs[AGGREGATE](inputs)
        return found["boxes"][: len(proposals)], found["scores"][: len(proposals)], {}


def _tensors(proposals: ProposalSet) -> dict[str, Tensor]:
    return {"boxes": proposals.boxes, "features": proposals.features, "objectness": proposals.scores}


def _filled(value: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """`count` rows, and zeros up to `shape`."""
    filled = value.new_zeros(tuple(shape))
    filled[:count] = value
    return filled


def _valid_rows(found: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    return found["boxes"][found["valid"]], found["scores"][found["valid"]]
