"""Boxes for the frames in which a track is missing.

n: detections of a frame.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from vod2.d2 import Instances
from vod2.modeling.linking import pairwise_iou
from vod2.structures import PreciseBoxes

_MOTION_FRAMES = 5  # a track's velocity is that over its last boxes, at most so many
_TAKEN_IOU = 0.5  # a frame that has another box of the class there needs no interpolated one


class _Box(NamedTuple):
    """A detection: xyxy (4,) float64 pixels."""

    frame: int
    box: np.ndarray
    score: float
    label: int


@dataclass
class _Frame:
    """A frame that waits: its linked detections, and those that are added to it with their tracks."""

    instances: Instances
    tracks: np.ndarray  # (n,) after joining
    added: list[tuple[_Box, int]] = field(default_factory=list)


class _Joined(NamedTuple):
    """The track that another one continues, and the last frame in which that one came in."""

    track: int
    last: int


class GapFiller:
    """Joins tracks across gaps of at most `max_gap` frames, and fills the gaps with interpolated boxes.

    A track that begins continues one of its class that has ended before, if its first box has an IoU of at least
    `min_iou` with the last box of that one, where it was or where its velocity would have taken it; of several pairs
    the one of the highest IoU comes first. A track whose number is taken by then gets a negative one.

    Boxes and scores in between are interpolated linearly, unless another box of that class is already there (IoU of at
    least .5). A frame is finished when `max_gap` others have come after it, so delay and memory are bounded.

    Args:
        max_gap: the longest run of frames to fill, at least 0.
        min_iou: in (0, 1].

    Raises:
        ValueError: for other values.

    Example:
        >>> from vod2.detections import as_instances
        >>> frames = [as_instances({"boxes": [[x, 0, x + 9, 9]], "scores": [0.9], "labels": [0], "track_ids": [0]})
        ...           for x in (0, 2)]
        >>> nothing = as_instances({"boxes": [], "scores": [], "labels": [], "track_ids": []})
        >>> filled = fill_gaps([frames[0], nothing, frames[1]], max_gap=1)
        >>> filled[1].pred_boxes.tensor.tolist(), filled[1].filled.tolist()
        ([[1.0, 0.0, 10.0, 9.0]], [True])
    """

    def __init__(self, max_gap: int, min_iou: float = 0.3) -> None:
        if max_gap < 0:
            raise ValueError(f"expected the longest gap to fill to be at least 0 frames, got {max_gap}")
        if not 0 < min_iou <= 1:
            raise ValueError(f"expected the least IoU across a gap in (0, 1], got {min_iou}")
        self.max_gap, self.min_iou = max_gap, min_iou
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next frame begins another."""
        self._waiting: deque[_Frame] = deque()
        self._index = 0  # of the next frame
        self._fresh = -1  # numbers below are free for tracks that come back under a number that is taken
        self._recent: dict[int, deque[_Box]] = {}  # {track: its last boxes}, of tracks that may still go on
        self._joined: dict[int, _Joined] = {}  # by the number with which a track comes in

    def push(self, frame: Instances) -> list[Instances]:
        """The next frame, with pred_boxes, scores, pred_classes and track_ids -> the finished frames, in order.

        A finished frame has these fields, `filled` (n,) bool and, where it had them, `input_scores` (n,), which are 0
        for filled boxes; it is sorted by descending score. Other fields are left out: a filled box has none.
        """
        boxes = _boxes_of(self._index, frame)
        incoming = frame.track_ids.tolist()
        for row, continued in self._continuations(boxes, incoming).items():
            self._joined[incoming[row]] = _Joined(continued, self._index)
        tracks = self._numbers(incoming)
        self._waiting.append(_Frame(frame, np.array(tracks, dtype=np.int64)))
        for box, track in zip(boxes, tracks, strict=True):
            recent = self._recent.get(track)
            if recent is None:
                recent = self._recent[track] = deque(maxlen=_MOTION_FRAMES)
            elif recent[-1].frame < self._index - 1:
                self._fill(recent[-1], box, track)
            recent.append(box)
        for track in incoming:
            if track in self._joined:
                self._joined[track] = self._joined[track]._replace(last=self._index)
        self._index += 1
        self._forget()
        return [self._finished(self._waiting.popleft()) for _ in range(len(self._waiting) - self.max_gap)]

    def flush(self) -> list[Instances]:
        """The video has ended: the frames that were still waiting. Then another video may begin."""
        finished = [self._finished(frame) for frame in self._waiting]
        self.reset()
        return finished

    def _number(self, incoming: int) -> int:
        """What a track is called: as it came in, or as the one that it continues."""
        joined = self._joined.get(incoming)
        return incoming if joined is None else joined.track

    def _numbers(self, incoming: Sequence[int]) -> list[int]:
        """What the tracks of a frame are called: each once.

        A track that comes back while another one continues it has two boxes in one frame, and is another object again.
        """
        tracks: list[int] = []
        taken = {self._number(track) for track in incoming if track in self._joined}
        for track in incoming:
            if track not in self._joined and track in taken:
                self._fresh -= 1
                self._joined[track] = _Joined(self._fresh, self._index)
            tracks.append(self._number(track))
        return tracks

    def _continuations(self, boxes: Sequence[_Box], incoming: Sequence[int]) -> dict[int, int]:
        """{row of a box that begins a track: the earlier track that it continues}."""
        present = {self._number(track) for track in incoming}
        # A track of the frame before has no gap: were it the same object, it would have been linked.
        ended = [
            track
            for track, recent in self._recent.items()
            if track not in present and recent[-1].frame < self._index - 1
        ]
        beginning = [
            row for row, track in enumerate(incoming) if track not in self._joined and track not in self._recent
        ]
        if not ended or not beginning:
            return {}
        overlap = self._overlaps([boxes[row] for row in beginning], ended)
        first, second = np.nonzero(overlap >= self.min_iou)
        # The highest overlap first; of equals, the earlier box and then the track that was met first.
        order = np.lexsort((second, first, -overlap[first, second]))
        continuations: dict[int, int] = {}
        continued = set()
        for row, track in zip(first[order].tolist(), second[order].tolist(), strict=True):
            if beginning[row] not in continuations and track not in continued:
                continuations[beginning[row]] = ended[track]
                continued.add(track)
        return continuations

    def _overlaps(self, boxes: Sequence[_Box], tracks: Sequence[int]) -> np.ndarray:
        """IoU of boxes with the ends of tracks, where they were or where they would be now; 0 for another class."""
        lasts, moved = [], []
        for track in tracks:
            first, last = self._recent[track][0], self._recent[track][-1]
            velocity = np.zeros(2)
            if last.frame > first.frame:
                velocity = (_centre(last.box) - _centre(first.box)) / (last.frame - first.frame)
            lasts.append(last)
            moved.append(last.box + np.tile(velocity * (self._index - last.frame), 2))
        here = np.stack([box.box for box in boxes])
        there = np.stack([last.box for last in lasts])
        overlap = np.maximum(pairwise_iou(here, there), pairwise_iou(here, np.stack(moved)))
        labels, others = np.array([box.label for box in boxes]), np.array([last.label for last in lasts])
        return np.where(labels[:, None] == others, overlap, 0.0)

    def _fill(self, last: _Box, box: _Box, track: int) -> None:
        """Interpolate the boxes between two of a track in the frames that wait."""
        # Frames that are finished already are not filled: the gap is longer than max_gap.
        first_waiting = self._index + 1 - len(self._waiting)
        if last.frame + 1 < first_waiting:
            return
        for index in range(last.frame + 1, box.frame):
            share = (index - last.frame) / (box.frame - last.frame)
            between = _Box(
                index, (1 - share) * last.box + share * box.box, (1 - share) * last.score + share * box.score, box.label
            )
            frame = self._waiting[index - first_waiting]
            if not _is_taken(between, frame):
                frame.added.append((between, track))

    def _forget(self) -> None:
        """Drop the tracks whose gap would be too long by the next frame."""
        oldest = self._index - 1 - self.max_gap  # a track that was seen then may go on in the next frame
        self._recent = {track: boxes for track, boxes in self._recent.items() if boxes[-1].frame >= oldest}
        self._joined = {incoming: joined for incoming, joined in self._joined.items() if joined.last >= oldest}

    def _finished(self, frame: _Frame) -> Instances:
        boxes, scores = frame.instances.pred_boxes.tensor, frame.instances.scores
        added = [box for box, _ in frame.added]
        new_boxes = torch.tensor(np.array([box.box for box in added]).reshape(-1, 4)).to(boxes)
        result = Instances(frame.instances.image_size, pred_boxes=PreciseBoxes(torch.cat([boxes, new_boxes])))
        result.scores = torch.cat([scores, torch.tensor([box.score for box in added], dtype=scores.dtype)])
        labels = frame.instances.pred_classes
        result.pred_classes = torch.cat([labels, torch.tensor([box.label for box in added], dtype=labels.dtype)])
        tracks = [*frame.tracks.tolist(), *(track for _, track in frame.added)]
        result.track_ids = torch.tensor(tracks, dtype=torch.int64)
        result.filled = torch.arange(len(tracks)) >= len(labels)
        if frame.instances.has("input_scores"):
            result.input_scores = torch.cat([frame.instances.input_scores, scores.new_zeros(len(added))])
        return result[result.scores.argsort(descending=True, stable=True)]


def fill_gaps(frames: Iterable[Instances], max_gap: int, min_iou: float = 0.3) -> list[Instances]:
    """`GapFiller` over a whole video.

    Args:
        frames: with pred_boxes, scores, pred_classes and track_ids, on the CPU.
        max_gap: the longest run of frames to fill.
        min_iou: of the two ends of a gap, in (0, 1].
    """
    filler = GapFiller(max_gap, min_iou)
    filled = [finished for frame in frames for finished in filler.push(frame)]
    return filled + filler.flush()


def _boxes_of(index: int, frame: Instances) -> list[_Box]:
    columns = zip(
        frame.pred_boxes.tensor.double().numpy(), frame.scores.tolist(), frame.pred_classes.tolist(), strict=True
    )
    return [_Box(index, box, score, label) for box, score, label in columns]


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _is_taken(box: _Box, frame: _Frame) -> bool:
    """Whether the frame has another box of the class where this one would be."""
    same = frame.instances.pred_classes.numpy() == box.label
    there = [frame.instances.pred_boxes.tensor.double().numpy()[same]]
    there += [other.box[None] for other, _ in frame.added if other.label == box.label]
    return bool((pairwise_iou(box.box[None], np.concatenate(there)) >= _TAKEN_IOU).any())
