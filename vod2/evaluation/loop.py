"""Evaluation as a stream: each frame is read and encoded once."""

from torch import nn

from vod2.modeling import VideoRCNN
from vod2.temporal import FrameMemory, SupportSchedule


class StreamingModel(nn.Module):
    """Makes a `VideoRCNN` a model for `inference_on_dataset`: it holds the memory of the video that is running.

    The loader must yield whole videos, the frames of each in order, each with only its new frames
    (`vod2.data.build_video_test_loader`).

    Args:
        model: the detector.
        schedule: the one that the loader follows.

    Example:
        >>> from vod2 import StreamingModel
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> from vod2.temporal import build_support_schedule
        >>> cfg = load_config("configs/quick/RDN.yaml")
        >>> streaming = StreamingModel(build_model(cfg), build_support_schedule(cfg))
    """

    def __init__(self, model: VideoRCNN, schedule: SupportSchedule) -> None:
        super().__init__()
        self.model = model
        self.memory = FrameMemory(schedule)
        self._running: str | None = None
        self.train(model.training)  # or restoring this wrapper's mode would change the model's

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Clips in the order of the stream -> {"instances": Instances} for each."""
        return [self._step(clip) for clip in batched_inputs]

    def _step(self, clip: dict) -> dict:
        if clip["video_id"] != self._running or clip.get("previous_index") is None:
            self._running = clip["video_id"]
            self.memory.start(str(clip["video_id"]), clip["video_length"])
        return self.model.step(clip, self.memory)
