"""Evaluation as a stream: each frame is read and encoded once."""

from torch import nn

from vod2.data import check_context
from vod2.modeling import VideoDetector
from vod2.modeling.precision import check_precision, in_precision
from vod2.temporal import FrameMemory, SupportSchedule


class StreamingModel(nn.Module):
    """Makes a `VideoDetector` a model for `inference_on_dataset`: it holds the memory of the video that is running.

    The loader must yield whole videos, the frames of each in order, each with only its new frames
    (`vod2.data.build_video_test_loader`).

    What a frame looks at is chosen by `context`:

    - "own": the window of its own video.
    - "none": nothing. Every frame is a video of one frame, and nothing is carried from one to the next.
    - "foreign": the window of another video, which runs beside it as a stream of its own (`ForeignMapper`). In it, the
      key frame takes the place of the other video's frame of the same number; what is carried is what was computed of
      the other video alone. The aggregators see frames of one name and one size, and cannot tell.

    Args:
        model: the detector.
        schedule: the one that the loader follows.
        context: the TEST.CONTEXT of the loader.
        store_mb: room in MiB for frames that may come back into the window of a schedule that looks at the whole video,
            as TEST.FRAME_STORE_MB: those that have room are encoded once. Not with level 1, whose maps depend on when
            a frame comes.
        precision: the TEST.PRECISION.

    Raises:
        UserError: for an unknown context or precision.

    Example:
        >>> from vod2 import StreamingModel
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> from vod2.temporal import build_support_schedule
        >>> cfg = load_config("configs/quick/RDN.yaml")
        >>> streaming = StreamingModel(build_model(cfg), build_support_schedule(cfg), cfg.TEST.CONTEXT)
    """

    def __init__(
        self,
        model: VideoDetector,
        schedule: SupportSchedule,
        context: str = "own",
        store_mb: float = 0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.model = model
        self.context, self.precision = check_context(context), check_precision(precision)
        comes_back = schedule.lookahead is None and model.pixel_aggregator is None and context == "own"
        self.memory = FrameMemory(schedule, int(store_mb * 2**20) if comes_back else 0)
        self._running: str | None = None
        self.train(model.training)  # or restoring this wrapper's mode would change the model's

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Clips in the order of the stream -> {"instances": Instances} for each.

        Raises:
            ValueError: the clips are those of another context.
        """
        with in_precision(self.model, self.precision):
            return [self._step(clip) for clip in batched_inputs]

    def _step(self, clip: dict) -> dict:
        if ("context_video" in clip) != (self.context == "foreign"):
            raise ValueError(
                f"the context of the model is {self.context!r}, the loader's is another one: build both with the same "
                "TEST.CONTEXT"
            )
        if self.context == "none":
            return self._step_alone(clip)
        if clip["video_id"] != self._running or clip.get("previous_index") is None:
            self._running = clip["video_id"]
            self.memory.start(str(clip["video_id"]), clip["video_length"])
        return self.model.step(clip, self.memory) if self.context == "own" else self._step_among_others(clip)

    def _step_alone(self, clip: dict) -> dict:
        # A video of one frame: neither frames nor what is carried remain from the frame before.
        self.memory.start(f"{clip['video_id']}:{clip['frame_index']}", 1)
        return self.model.step({**clip, "frame_index": 0, "support": []}, self.memory)

    def _step_among_others(self, clip: dict) -> dict:
        """The memory is that of the other video's stream, under the name and with the numbers of the key frame's."""
        t = clip["frame_index"]
        for support in clip["support"]:
            self.model.remember([support], [self.memory])
        # Place t belongs to the key frame, whatever the other video has there.
        others = self.memory.without(t)
        output = self.model.step({**clip, "support": []}, others)
        if others.cached_context().carry:
            self.model.detect_from(self.memory, clip)  # for what the other video's own frame t carries on
        else:
            self.memory.context(t)  # forgets what no later frame looks at
        return output
