"""How fast objects move: the groups slow, medium and fast of ImageNet VID, computed from the tracks.

Shape alphabet: m ground truths. Boxes are xyxy pixels.
"""

import numpy as np

from vod2.evaluation.matching import paired_iou

SPEEDS = ("slow", "medium", "fast")
_RADIUS = 10  # frames on either side
_FAST, _SLOW = 0.7, 0.9  # motion IoU below which an object is fast, above which it is slow


def motion_iou(track: np.ndarray, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The mean IoU of each box with the other boxes of its track within 10 frames before and after.

    The boxes are taken as they are, without an added pixel, whatever rule detections are matched by. All tracks are
    compared at once, shifted by one row after the other: the 280,000 boxes of ImageNet VID's validation set take less
    than a second, so nothing is cached.

    Args:
        track: (m,) integer, one number for each object of each video; -1 where the track is not known.
        frame: (m,) integer, number of the frame in its video.
        boxes: (m, 4).

    Returns:
        (m,) float64 in [0, 1]; NaN where the track is not known or has no other box within 10 frames.

    Example:
        >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
        >>> motion_iou(np.array([0, 0, 0]), np.array([0, 1, 20]), boxes)
        array([0.5, 0.5, nan])
    """
    result = np.full(len(track), np.nan)
    # By track and then by frame: boxes of one track lie next to each other, in time.
    order = np.lexsort((frame, track))
    order = order[track[order] >= 0]
    track, frame, boxes = track[order], frame[order], boxes[order]
    total, count = np.zeros(len(order)), np.zeros(len(order), dtype=np.int64)
    for shift in range(1, len(order)):
        is_near = (track[shift:] == track[:-shift]) & (frame[shift:] - frame[:-shift] <= _RADIUS)
        if not is_near.any():  # then no larger shift has any either: frames ascend in a track
            break
        # Two boxes of one track in one frame are a mistake of the annotation, not a motion.
        first = np.flatnonzero(is_near & (frame[shift:] > frame[:-shift]))
        iou = paired_iou(boxes[first], boxes[first + shift])
        for rows in (first, first + shift):
            total[rows] += iou
            count[rows] += 1
    result[order[count > 0]] = total[count > 0] / count[count > 0]
    return result


def speed_groups(motion: np.ndarray, overlap: bool = False) -> dict[str, np.ndarray]:
    """Which objects (m,) bool are slow (motion IoU above .9), medium (.7 to .9) and fast (below .7).

    An object whose motion is not known (NaN: it is alone within 10 frames) belongs to none of them; it counts
    among all objects, and is ignored in the three groups.

    Args:
        motion: (m,) from `motion_iou`.
        overlap: exactly .7 is also fast and exactly .9 also slow, not only medium (protocols "fgfa" and "mega").

    Example:
        >>> speed_groups(np.array([0.5, 0.9, np.nan]))["medium"]
        array([False,  True, False])
    """
    medium = (motion >= _FAST) & (motion <= _SLOW)
    slow, fast = (motion >= _SLOW, motion <= _FAST) if overlap else (motion > _SLOW, motion < _FAST)
    return dict(zip(SPEEDS, (slow, medium, fast), strict=True))
