"""Images of streams to encoded frames, and encoded frames to detections."""

from collections.abc import Sequence

import numpy as np
import torch

from vod2.d2 import CfgNode, transforms
from vod2.data.clips.resizing import build_test_resize
from vod2.modeling import VideoDetector
from vod2.modeling.precision import check_precision, in_precision
from vod2.temporal import FrameMemory, SupportSchedule


class FramePreparation:
    """What is done to a frame of a stream before a model sees it: that of the test loader.

    Args:
        cfg: configuration with INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and FORMAT.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.resize = build_test_resize(cfg)
        self.rgb = cfg.INPUT.FORMAT == "RGB"

    def __call__(self, frame: np.ndarray) -> torch.Tensor:
        """BGR uint8 (H, W, 3) -> uint8 (3, H', W') in the size and channel order of the model."""
        frame = frame[:, :, ::-1] if self.rgb else frame
        resized = self.resize.get_transform(frame).apply_image(frame)
        return torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))


class FrameDetector:
    """The detector that the streams of a predictor share: a model, how images are resized for it, and the schedule.

    It holds no state of a stream.

    Args:
        cfg: configuration with INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and FORMAT, and TEST.PRECISION.
        model: in evaluation mode.
        schedule: names the window of a frame; its lookahead is a number of frames.
        class_names: names by label; empty where they are not known.
    """

    def __init__(
        self, cfg: CfgNode, model: VideoDetector, schedule: SupportSchedule, class_names: Sequence[str] = ()
    ) -> None:
        self.model, self.schedule, self.class_names = model, schedule, class_names
        self.prepare = FramePreparation(cfg)
        self.precision = check_precision(cfg.TEST.PRECISION)

    @property
    def resize(self) -> transforms.Augmentation:
        """How images are resized for the model."""
        return self.prepare.resize

    def close(self) -> None:
        """Let go of the model; no stream may use the detector any more."""
        del self.model

    def encode(self, frames: Sequence[tuple[FrameMemory, np.ndarray]]) -> None:
        """BGR uint8 images (H, W, 3), each the next frame of the video of a memory, which then holds what was encoded.

        The backbone runs once for all frames that have one size after resizing.
        """
        groups: dict[tuple[int, ...], list[tuple[dict, FrameMemory]]] = {}
        for memory, frame in frames:
            image = self.prepare(frame)
            clip = {"image": image, "frame_index": memory.length}
            groups.setdefault(tuple(image.shape), []).append((clip, memory))
        for group in groups.values():
            with in_precision(self.model, self.precision):
                self.model.remember([clip for clip, _ in group], [memory for _, memory in group])

    def detect(self, memory: FrameMemory, index: int, size: tuple[int, int]) -> dict:
        """{"instances": Instances} in frame `index` of the memory's video, in pixels of an image of (height, width)."""
        with in_precision(self.model, self.precision):
            return self.model.detect_from(memory, {"frame_index": index, "height": size[0], "width": size[1]})
