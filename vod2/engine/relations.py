"""What a detection took from other frames.

N: proposals of the key frame, M: support proposals.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vod2.d2 import Instances
from vod2.engine.predictor import VideoPredictor
from vod2.errors import UserError
from vod2.modeling import Aggregated
from vod2.structures import ProposalSet, TemporalContext


class SupportBox(NamedTuple):
    """A support proposal: the number and the image of its frame, its box (xyxy pixels of that image), its weight."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    image: np.ndarray
    box: list[float]
    weight: float


class RelationWatch:
    """Keeps the relation weights of one frame of a stream, and the images of its window.

    Args:
        predictor: its aggregator keeps relations (MODEL.VIDEO.KEEP_RELATIONS).
        frame: number of the frame.
        video: the name that `VideoPredictor.stream` is given, which chooses the frames of a `GlobalSample`.

    Raises:
        UserError: if the aggregator keeps none.

    Example:
        >>> from vod2.engine import load_config
        >>> cfg = load_config("configs/quick/RDN.yaml", ["MODEL.WEIGHTS", "", "MODEL.VIDEO.KEEP_RELATIONS", "True"])
        >>> predictor = VideoPredictor(cfg)
        >>> watch = RelationWatch(predictor, frame=1)
        >>> images = [np.full((64, 96, 3), 50 * i, np.uint8) for i in range(3)]
        >>> detected = list(predictor.stream(watch.frames(images)))[1]
        >>> len(watch.supports(proposal=0, count=4))
        4
    """

    def __init__(self, predictor: VideoPredictor, frame: int, video: str = "stream") -> None:
        aggregator = predictor.model.roi_heads.aggregator
        parts = [] if aggregator is None else aggregator.modules()  # several in a row: the last that keeps any
        keeping = [part for part in parts if getattr(part, "keep_relations", False)]
        if not keeping:
            raise UserError(
                f"{type(aggregator).__name__ if aggregator else 'a detector without aggregator'} keeps no relations: "
                "set MODEL.VIDEO.KEEP_RELATIONS to True, with a MODEL.VIDEO.PROPOSAL_AGGREGATOR that can keep them"
            )
        self.frame, self._video, self._schedule = frame, video, predictor.schedule
        self._lookahead = predictor.lookahead
        self._first = 0  # the number of the frame that the memory calls 0
        self._num_lost = self._num_calls = 0
        self._images: dict[int, np.ndarray] = {}
        self._seen: tuple[ProposalSet, Tensor] | None = None
        self._support_indices: list[int] = []
        # A hook, so that the model itself need not return relations
        self._hook = keeping[-1].register_forward_hook(self._watch)

    @property
    def is_done(self) -> bool:
        """Whether the frame has been detected, with frames to look at."""
        return self._seen is not None

    def frames(self, source: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
        """`source` as it is; give this to `VideoPredictor.stream`, which must be the only one that runs."""
        wanted = self._wanted()
        for index, image in enumerate(source):
            if image is None and index < self.frame:
                self._num_lost += 1
                self._first = index + 1
                # After a gap the stream starts over and does not look at earlier frames
                self._images.clear()
                wanted = self._wanted()
            elif image is not None and index in wanted:
                self._images[index] = image
            yield image

    def supports(self, proposal: int, count: int = 8) -> list[SupportBox]:
        """The `count` support boxes with the largest weights for a proposal of the frame, which has been detected.

        Args:
            proposal: row of the proposal, `Instances.proposal_index` of a detection.
        """
        if self._seen is None:
            raise ValueError(f"frame {self.frame} has not been detected yet")
        support, relations = self._seen
        weights, proposals = relations[proposal].topk(min(count, relations.shape[1]))
        support_boxes = []
        for weight, number in zip(weights.tolist(), proposals.tolist(), strict=True):
            frame = int(support.frame[number])
            index = self._first + self._support_indices[frame]
            height, width = support.image_sizes[frame]
            image = self._images[index]
            # Images are kept as they came, while boxes are in pixels of the resized images
            scale = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
            box = support.boxes[number].cpu() * scale
            support_boxes.append(SupportBox(index, image, box.tolist(), weight))
        return support_boxes

    def close(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _wanted(self) -> set[int]:
        """The numbers of the frames in the window, as far as the video goes on without a gap."""
        t = self.frame - self._first
        window = self._schedule.window(t, t + 1 + self._lookahead, self._video)
        return {self._first + support.index for support in window}

    def _watch(self, module: Any, inputs: tuple[ProposalSet, TemporalContext], output: Aggregated) -> None:
        """The aggregator is called once for each frame that was not lost, in their order."""
        if self._num_calls == self.frame - self._num_lost and output.relations is not None:
            context = inputs[1]
            # The support proposals that the weights belong to: the same call as the aggregator's own.
            support = context.proposals(module.support_topk)
            if support is not None:
                self._seen = support, output.relations.detach().cpu()
                self._support_indices = [frame.index for frame in context.frames if frame.proposals is not None]
        self._num_calls += 1


def detection_at(instances: Instances, x: float, y: float) -> int | None:
    """The row of the surest detection whose box holds the point (pixels), None where there is none."""
    x1, y1, x2, y2 = instances.pred_boxes.tensor.unbind(dim=1)
    inside = ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).nonzero()[:, 0]
    return None if len(inside) == 0 else int(inside[instances.scores[inside].argmax()])
