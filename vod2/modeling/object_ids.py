"""Which object of the ground truth a box shows.

M: boxes, G: objects.
"""

from torch import Tensor
from torchvision.ops import box_iou

from vod2.d2 import Instances

BACKGROUND = -1


def object_ids(boxes: Tensor, targets: Instances | None, threshold: float) -> Tensor | None:
    """The track of the object that each box overlaps most, if with an IoU of at least `threshold`.

    Args:
        boxes: (M, 4) xyxy in pixels of the resized image.
        targets: the frame's ground truth with gt_boxes and gt_track_ids (G,), both of the resized image; or None.
        threshold: in [0, 1].

    Returns:
        (M,) int64, -1 for background; None where the tracks are unknown: without targets, without gt_track_ids, or with
        an object whose track is -1.
    """
    if targets is None or not targets.has("gt_track_ids") or (targets.gt_track_ids < 0).any():
        return None
    tracks = targets.gt_track_ids.to(boxes.device)
    if len(targets) == 0:
        return tracks.new_full((len(boxes),), BACKGROUND)
    overlap, best = box_iou(boxes, targets.gt_boxes.tensor.to(boxes)).max(dim=1)
    return tracks[best].where(overlap >= threshold, BACKGROUND)
