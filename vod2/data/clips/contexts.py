"""Evaluation with other frames than a detector's own: does it look at them at all?"""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np

from vod2.d2 import CfgNode, transforms
from vod2.data.clips.video_mapper import VideoDatasetMapper, to_tensor
from vod2.data.datasets.video_index import VideoIndex
from vod2.errors import UserError
from vod2.moved import moved
from vod2.temporal import NoWindow, SupportSchedule

__getattr__ = moved(__name__, {"fitted": "vod2.data.clips.contexts:fit_to_size"})

CONTEXTS = ("own", "none", "foreign")
"""TEST.CONTEXT: what stands around a frame in evaluation. The frames of its own video; nothing, so that every frame is
a video of one frame; or frames of another video in the places of its own ones."""


def check_context(context: str) -> str:
    """`context`, if it is one of CONTEXTS.

    Raises:
        UserError: otherwise.
    """
    if context not in CONTEXTS:
        raise UserError(f"TEST.CONTEXT is {context!r}, expected one of {', '.join(CONTEXTS)}")
    return context


def build_test_mapper(cfg: CfgNode, dicts: Sequence[dict], index: VideoIndex) -> VideoDatasetMapper:
    """The mapper of the test loader for TEST.CONTEXT.

    Args:
        cfg: TEST.CONTEXT, and the keys of `VideoDatasetMapper`.
        dicts: video dicts of the whole data set, in the order of the stream.
        index: of the same dicts.

    Raises:
        UserError: an unknown context, or "foreign" in a data set of one video.
    """
    context = check_context(cfg.TEST.CONTEXT)
    if context == "foreign":
        return ForeignMapper(cfg, index, foreign_videos(record["video_id"] for record in dicts))
    options = {"schedule": NoWindow()} if context == "none" else {}
    return VideoDatasetMapper(cfg, is_train=False, index=index, **options)


def foreign_videos(video_ids: Iterable[str]) -> dict[str, str]:
    """Each video's partner: the one that comes half the data set later, round the end; no video is its own.

    Neighbours are not paired, as they are often cut from one recording. Every video is the partner of one other.

    Args:
        video_ids: the videos in order; repeated ones count once.

    Raises:
        UserError: fewer than two videos.

    Example:
        >>> foreign_videos(["a", "a", "b", "c", "d", "e"])
        {'a': 'c', 'b': 'd', 'c': 'e', 'd': 'a', 'e': 'b'}
    """
    videos = list(dict.fromkeys(video_ids))
    if len(videos) < 2:
        raise UserError(
            f"TEST.CONTEXT 'foreign' takes frames of another video, but the data set has {len(videos)}: evaluate on "
            "one of at least two videos, or set it to 'own' or 'none'"
        )
    half = len(videos) // 2
    return dict(zip(videos, videos[half:] + videos[:half], strict=True))


def there_and_back(index: int, length: int) -> int:
    """Frame `index` of a video of `length` frames that runs to its end, back to its beginning, and so on.

    So a short video fills the places of a longer one without a jump.

    Example:
        >>> [there_and_back(index, 3) for index in range(8)]
        [0, 1, 2, 1, 0, 1, 2, 1]
    """
    # The period below would be 0.
    if length == 1:
        return 0
    place = index % (2 * length - 2)
    return min(place, 2 * length - 2 - place)


def fit_to_size(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image, scaled as little as covers `size`; one of that size as it is.

    Args:
        image: (h, w, C) uint8.
        size: (H, W).

    Returns:
        (H, W, C) uint8.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = max(size[0] / height, size[1] / width)
    # Rounding must not leave a side short of the size that is cut out.
    scaled = max(round(scale * height), size[0]), max(round(scale * width), size[1])
    image = transforms.ResizeTransform(height, width, *scaled).apply_image(image)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


class ForeignMapper(VideoDatasetMapper):
    """In inference: the key frame from its own video, and another video's frames in the places of all others.

    The places are those of the window in the key frame's video. Place i holds frame `there_and_back(i)` of the other
    video, resized as any test image and then brought to the size of the key frame by `fit_to_size`. To the dict come:
        image: (3, H, W) uint8, always
        support: list of {image (3, H, W), frame_index, role None}, ascending: places that the stream has not been sent
            yet. Place t, that of the key frame, may be among them: later frames look at it.
        context_video: the name of the other video

    Args:
        cfg: that of `VideoDatasetMapper`.
        index: the whole data set.
        partners: {video: the other video}, see `foreign_videos`.

    Raises (when called):
        UserError: as `VideoDatasetMapper`.
    """

    def __init__(self, cfg: CfgNode, index: VideoIndex, partners: dict[str, str]) -> None:
        super().__init__(cfg, is_train=False, index=index)
        self.partners = partners

    def _new_frames(self, clip: dict) -> dict:
        clip.pop("annotations", None)
        key, video = clip["frame_index"], clip["video_id"]
        image = self._resized(self._reader(clip, [key]), clip, key)
        clip["image"] = to_tensor(image)
        clip["context_video"] = self.partners[video]
        schedule = cast(SupportSchedule, self.schedule)
        places = schedule.new(key, clip["video_length"], video, clip.get("previous_index"))
        assert self.index is not None  # the constructor was given one
        # Any dict of a video leads to all of its frames; the first listed one is there for certain.
        other = self.index.record(self.partners[video], int(self.index.frames(self.partners[video])[0]))
        assert other is not None  # it is one of those that are listed
        numbers = {place: there_and_back(place, other["video_length"]) for place in places}
        read = self._reader(other, numbers.values())
        clip["support"] = []
        for place, number in numbers.items():
            support = fit_to_size(self._resized(read, other, number), image.shape[:2])
            clip["support"].append({"image": to_tensor(support), "frame_index": place, "role": None})
        return clip
