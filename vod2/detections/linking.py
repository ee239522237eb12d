"""Linking for anybody's detections, of a whole video or while it runs.

n: detections of a frame.
"""

from collections.abc import Iterable
from typing import Any

from vod2.d2 import Instances
from vod2.detections.filling import GapFiller
from vod2.detections.foreign import as_instances
from vod2.errors import UserError
from vod2.modeling import BoxLinker, GreedyLinking, OnlineLinker, SeqNMS, TubeletLinking

LINKERS: dict[str, type[BoxLinker]] = {"repp-like": GreedyLinking, "seqnms": SeqNMS, "tubelets": TubeletLinking}
"""By the names that `link` and the command take; those of BOX_LINKER_REGISTRY are the names of the classes."""


def named_linker(linker: str | BoxLinker) -> BoxLinker:
    """The linker of a name, with its defaults; a linker is returned as it is.

    Raises:
        UserError: for an unknown name.
    """
    if isinstance(linker, BoxLinker):
        return linker
    if linker not in LINKERS:
        raise UserError(f"linker is {linker!r}: expected a BoxLinker, or one of {', '.join(map(repr, LINKERS))}")
    return LINKERS[linker]()


def link(
    detections: Iterable[Any],
    linker: str | BoxLinker = "repp-like",
    *,
    fill_gaps: int = 0,
    size: tuple[int, int] | None = None,
) -> list[Instances]:
    """Link the detections of a video over time, whatever detector made them: tracks, steadier scores, no gaps.

    Args:
        detections: those of each frame, in order, in any form that `as_instances` takes. A frame without any is needed,
            too: as an empty one.
        linker: "repp-like" and "tubelets" for boxes after non-maximum suppression, "seqnms" for those before; or a
            `BoxLinker`.
        fill_gaps: the longest run of frames, in which a track is missing, that is filled with interpolated boxes.
        size: (height, width) of the frames in pixels; by default what the detections say, or what holds all boxes.

    Returns:
        For each frame `Instances` on the CPU, sorted by descending score, with pred_boxes (n, 4) xyxy pixels, scores in
        [0, 1] where the detector's are, pred_classes, `track_ids` (n,) from 0, `input_scores` (n,), which are the
        detector's, and, with `fill_gaps`, `filled` (n,) bool; the input score of a filled box is 0.

    Raises:
        UserError: for an unknown linker, or detections that are none, with the number of the frame.
        ValueError: `fill_gaps` is negative.

    Example:
        >>> import vod2
        >>> seen = ([[10, 10, 30, 40]], [0.8], [0])
        >>> frames = vod2.link([seen, ([], [], []), seen], fill_gaps=1)
        >>> [(frame.track_ids.tolist(), frame.filled.tolist()) for frame in frames]
        [([0], [False]), ([0], [True]), ([0], [False])]
    """
    chosen = named_linker(linker)
    filler = GapFiller(fill_gaps)  # before the work: it refuses wrong values
    frames = [_prepared(found, size, index) for index, found in enumerate(detections)]
    # Frames that do not say their size have that of the boxes in them: all are of one video.
    sizes = [frame.image_size for frame in frames]
    common = (max((height for height, _ in sizes), default=1), max((width for _, width in sizes), default=1))
    frames = [_of_size(frame, common) for frame in frames]
    linked = [_rescaled(frame, chosen) for frame in chosen.link(frames)]
    if not fill_gaps:
        return linked
    filled = [frame for before in linked for frame in filler.push(before)]
    return filled + filler.flush()


class DetectionLinker:
    """`link` while the video runs.

    A frame is finished when at most `window` - 1 + `fill_gaps` others have come after it; so many are in memory.

    Args:
        linker, fill_gaps, size: see `link`.
        window: frames that are linked at once, at least 2, see `vod2.modeling.OnlineLinker`.

    Raises:
        UserError: for an unknown linker.
        ValueError: `window` is smaller, or `fill_gaps` negative.

    Example:
        >>> live = DetectionLinker(window=2)
        >>> seen = ([[10, 10, 30, 40]], [0.8], [0])
        >>> len(live.push(seen)), len(live.push(seen)), len(live.flush())
        (0, 1, 1)
    """

    def __init__(
        self,
        linker: str | BoxLinker = "repp-like",
        window: int = 30,
        *,
        fill_gaps: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._linker = named_linker(linker)
        self._online = OnlineLinker(self._linker, window)
        self._filler = GapFiller(fill_gaps) if fill_gaps else None
        self._size = size
        self._index = 0  # of the next frame
        self._extent = (1, 1)  # (height, width) that holds what has come, where no size is given

    def push(self, detections: Any) -> list[Instances]:
        """The next frame, see `as_instances` -> the frames that are finished, in order; often none."""
        frame = _prepared(detections, self._size, self._index)
        self._index += 1
        height, width = frame.image_size
        self._extent = (max(height, self._extent[0]), max(width, self._extent[1]))
        frame = _of_size(frame, self._extent)
        return self._filled(self._online.push(frame))

    def flush(self) -> list[Instances]:
        """The video has ended: the frames that were still waiting. Then another video may begin."""
        finished = self._filled(self._online.flush())
        if self._filler is not None:
            finished += self._filler.flush()
        self._index, self._extent = 0, (1, 1)
        return finished

    def _filled(self, linked: list[Instances]) -> list[Instances]:
        frames = [_rescaled(frame, self._linker) for frame in linked]
        if self._filler is None:
            return frames
        return [finished for frame in frames for finished in self._filler.push(frame)]


def _prepared(detections: Any, size: tuple[int, int] | None, index: int) -> Instances:
    found = as_instances(detections, size, f"frame {index}")
    # A copy: what the caller holds stays as it is.
    frame = Instances(found.image_size, **found.get_fields())
    frame.input_scores = found.scores.clone()
    return frame


def _of_size(frame: Instances, size: tuple[int, int]) -> Instances:
    return frame if frame.image_size == size else Instances(size, **frame.get_fields())


def _rescaled(frame: Instances, linker: BoxLinker) -> Instances:
    """Scores of a linker that adds to them, as shares of the highest that it gives."""
    frame.scores = frame.scores / linker.highest_score
    return frame
