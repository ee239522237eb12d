"""Which videos to train on and which to hold out, where a dataset does not say.

Videos are "video dataset dicts" (`vod2.data.datasets.video_index.as_video_dicts`): one dict for each frame.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from vod2.errors import UserError
from vod2.video import natural_key

_LEAST_FRAMES = 30  # of a video that is evaluated: a window of 37 and tracks mean nothing in less


class Split(NamedTuple):
    """What is held out.

    Attributes:
        videos: ids of the videos that are held out as a whole.
        cuts: {video id: first frame that is held out}, where one video has to serve for both.
    """

    videos: frozenset[str]
    cuts: dict[str, int]

    def train(self, records: Sequence[dict]) -> list[dict]:
        """The dicts to train on. A video that is cut ends at the cut, so that its supports do, too."""
        kept = []
        for record in records:
            cut = self.cuts.get(record["video_id"])
            if cut is not None and record["frame_index"] < cut:
                kept.append(record | {"video_length": cut})
            elif cut is None and record["video_id"] not in self.videos:
                kept.append(record)
        return kept

    def held_out(self, records: Sequence[dict]) -> list[dict]:
        """The dicts to evaluate on."""
        kept = []
        for record in records:
            cut = self.cuts.get(record["video_id"])
            if record["video_id"] in self.videos or (cut is not None and record["frame_index"] >= cut):
                kept.append(record)
        return kept


def split_videos(records: Sequence[dict], share: float) -> Split:
    """Hold out the last videos of each class, in the natural order of their names; the same at each call.

    Neighbouring videos are often pieces of one recording, and mostly stay on one side: the split is not random. The
    class of a video is the one that most of its objects have, the first of several; videos without objects are a class
    of their own. Of a class with one video nothing is held out. Where that leaves nothing at all, each video is cut
    instead: its last frames are held out.

    Args:
        records: at least two of them have objects.
        share: of the videos of a class (at least one of two), or of the frames; in (0, 1).

    Raises:
        UserError: there are too few frames with objects.

    Example:
        >>> def frame(video, index, label):
        ...     annotation = {"category_id": label}
        ...     return {"video_id": video, "frame_index": index, "video_length": 4, "annotations": [annotation]}
        >>> frames = [frame(video, 0, label) for video, label in [("a1", 0), ("a2", 0), ("a10", 0), ("b1", 1)]]
        >>> sorted(split_videos(frames, 0.25).videos)
        ['a10']
        >>> split_videos([frame("a", index, 0) for index in range(4)], 0.25).cuts
        {'a': 3}
    """
    labels: dict[str, Counter] = defaultdict(Counter)
    for record in records:
        labels[record["video_id"]].update(annotation["category_id"] for annotation in record.get("annotations", []))
    videos_of_class: dict[int, list[str]] = defaultdict(list)
    for video, counts in labels.items():
        # -1 stands for no objects. Of equal counts the lower label, whatever order the file has.
        label = min(counts, key=lambda label: (-counts[label], label), default=-1)
        videos_of_class[label].append(video)

    held_out: set[str] = set()
    for videos in videos_of_class.values():
        videos.sort(key=natural_key)
        count = min(max(round(share * len(videos)), 1), len(videos) - 1)
        held_out.update(videos[len(videos) - count :])
    if any(labels[video] for video in held_out):
        return Split(frozenset(held_out), {})
    return Split(frozenset(), _cuts(records, share))


def _cuts(records: Sequence[dict], share: float) -> dict[str, int]:
    """{video id: first frame of its last ones}, such that on both sides there are frames with objects."""
    frames: dict[str, list[int]] = defaultdict(list)
    for record in records:
        if record.get("annotations"):
            frames[record["video_id"]].append(record["frame_index"])
    cuts = {}
    for video, indices in frames.items():
        indices.sort()
        count = min(max(math.ceil(share * len(indices)), 1), len(indices) - 1)
        if count:
            cuts[video] = indices[len(indices) - count]
    if not cuts:
        total = sum(map(len, frames.values()))
        raise UserError(f"{total} frames have objects, too few to hold some out: expected at least two of a video")
    return cuts


def first_frames(records: Sequence[dict], most: int) -> list[dict]:
    """At most `most` frames of videos, from the first with an object on, as many of each video.

    Each gets at least 30, or `most` if that is less, so that a detector still has other frames to look at: where that
    is too much for all videos, evenly spaced ones of them are taken. Each then ends with its last frame that is taken,
    so that a detector does not look at frames behind it, either. A video without an object begins with its first frame.
    """
    videos: dict[str, list[dict]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["frame_index"]):
        videos[record["video_id"]].append(record)
    names = list(dict.fromkeys(record["video_id"] for record in records))
    count = min(len(names), max(most // _LEAST_FRAMES, 1))
    # In the middle of equal pieces of the list.
    chosen = [names[(2 * place + 1) * len(names) // (2 * count)] for place in range(count)]
    kept: list[dict] = []
    for number, name in enumerate(chosen):
        # What shorter videos leave over is for those that come after them.
        share = (most - len(kept)) // (count - number)
        frames = videos[name]
        begin = next((row for row, record in enumerate(frames) if record.get("annotations")), 0)
        taken = frames[begin : begin + share]
        if begin + share < len(frames):
            taken = [record | {"video_length": taken[-1]["frame_index"] + 1} for record in taken]
        kept += taken
    return kept
