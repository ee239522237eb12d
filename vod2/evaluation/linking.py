"""Level 3 between a detector and its evaluators."""

from collections.abc import Sequence

import torch

from vod2.d2 import DatasetEvaluator, Instances
from vod2.modeling import BoxLinker


class LinkingEvaluator(DatasetEvaluator):
    """Links the detections of every video before another evaluator sees them.

    Frames must come as `StreamingModel` wants them: whole videos, the frames of each in order. The detections of the
    video that is running are held on the CPU.

    Args:
        linker: level 3.
        evaluator: gets the linked detections, and the inputs without their images.
        alone: every frame is a video of its own, so that nothing is linked across frames (TEST.CONTEXT).

    Example:
        >>> from vod2.d2 import DatasetEvaluators
        >>> from vod2.evaluation import LinkingEvaluator
        >>> from vod2.modeling import SeqNMS
        >>> evaluator = LinkingEvaluator(SeqNMS(), DatasetEvaluators([]))
    """

    def __init__(self, linker: BoxLinker, evaluator: DatasetEvaluator, alone: bool = False) -> None:
        self._linker, self._evaluator, self._alone = linker, evaluator, alone
        self._inputs: list[dict] = []
        self._frames: list[Instances] = []

    def reset(self) -> None:
        """Forget all detections."""
        self._inputs, self._frames = [], []
        self._evaluator.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Store the detections of some frames, and link the video before when another one begins.

        Args:
            inputs: dicts with `video_id`, and `previous_index` None at the first frame of a video (where they have it).
            outputs: dicts with `instances`.
        """
        for frame, output in zip(inputs, outputs, strict=True):
            if self._inputs and (self._alone or _begins_video(frame, self._inputs[-1])):
                self._pass_on()
            # Without the pixels, which of a whole video would not fit in memory.
            self._inputs.append({key: value for key, value in frame.items() if key not in ("image", "support")})
            self._frames.append(output["instances"].to(torch.device("cpu")))

    def evaluate(self) -> dict | None:
        """What the other evaluator finds."""
        self._pass_on()
        return self._evaluator.evaluate()

    def _pass_on(self) -> None:
        linked = self._linker.link(self._frames)
        for frame, instances in zip(self._inputs, linked, strict=True):
            if self._alone and instances.has("track_ids"):
                instances.remove("track_ids")  # of one frame: the same numbers in each, which would look like tracks
            self._evaluator.process([frame], [{"instances": instances}])
        self._inputs, self._frames = [], []


def _begins_video(frame: dict, before: dict) -> bool:
    # Other loaders give no previous_index; then the id alone tells one video from the next.
    return frame["video_id"] != before["video_id"] or frame.get("previous_index", before["frame_index"]) is None
