"""Detection in a stream of frames, for scripts and demos."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from vod2.checkpoint import load_weights
from vod2.d2 import CfgNode, build_model
from vod2.d2 import transforms as T
from vod2.errors import UserError
from vod2.modeling import VideoRCNN
from vod2.temporal import FrameMemory, build_support_schedule


class DetectedFrame(NamedTuple):
    """One finished frame: its number, the image as it came in, and {"instances": Instances} in its pixels."""

    index: int
    image: np.ndarray
    output: dict


class VideoPredictor:
    """`DefaultPredictor` for videos: BGR images in, detections out, in the order of the frames.

    Memory is bounded by the window of the schedule and latency by its lookahead, whatever the length of the stream.

    Args:
        cfg: configuration with MODEL.WEIGHTS, VIDEO.TEST_SCHEDULE and INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST, FORMAT.

    Raises:
        UserError: if the weights are not those of the model.

    Example:
        >>> import numpy as np
        >>> from vod2 import VideoPredictor
        >>> from vod2.engine import load_config
        >>> predictor = VideoPredictor(load_config("configs/quick/RDN.yaml", ["MODEL.WEIGHTS", ""]))
        >>> frames = [np.zeros((64, 96, 3), np.uint8)] * 3
        >>> [found.index for found in predictor.stream(frames)]
        [0, 1, 2]
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.model = build_model(cfg).eval()
        if not isinstance(self.model, VideoRCNN):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}: a stream needs 'VideoRCNN', which is the "
                "same detector without aggregators"
            )
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        self.schedule = build_support_schedule(cfg)
        self.resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.rgb = cfg.INPUT.FORMAT == "RGB"

    def stream(self, frames: Iterable[np.ndarray], video: str = "stream") -> Iterator[DetectedFrame]:
        """BGR uint8 images (H, W, 3) -> the same frames with detections, `lookahead` frames later.

        Raises:
            UserError: if the schedule needs the whole video at once.
        """
        lookahead = self.schedule.lookahead
        if lookahead is None:
            raise UserError(
                f"{type(self.schedule).__name__} looks at the whole video and cannot run on a stream; set "
                "VIDEO.TEST_SCHEDULE.NAME to SlidingWindow or Keyframes"
            )
        return self._stream(frames, video, lookahead)

    def _stream(self, frames: Iterable[np.ndarray], video: str, lookahead: int) -> Iterator[DetectedFrame]:
        memory = FrameMemory(self.schedule)
        memory.start(video, length=0)
        waiting: deque[np.ndarray] = deque()
        fresh: list[dict] = []
        for image in frames:
            fresh.append(self._clip(image, memory.length))
            waiting.append(image)
            memory.extend()
            if len(waiting) > lookahead:
                yield self._detect(memory, waiting, fresh)
        while waiting:
            yield self._detect(memory, waiting, fresh)

    def _detect(self, memory: FrameMemory, waiting: deque, fresh: list[dict]) -> DetectedFrame:
        """Detect in the oldest frame that waits; frames that arrived since the last time are encoded first."""
        index = memory.length - len(waiting)
        image = waiting.popleft()
        clip = {"frame_index": index, "height": image.shape[0], "width": image.shape[1], "support": fresh[:]}
        fresh.clear()
        return DetectedFrame(index, image, self.model.step(clip, memory))

    def _clip(self, image: np.ndarray, index: int) -> dict:
        original = image[:, :, ::-1] if self.rgb else image
        resized = self.resize.get_transform(original).apply_image(original)
        return {"image": torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1))), "frame_index": index}
