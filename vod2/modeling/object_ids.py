"""Which object of the ground truth a box shows.

M: boxes, G: objects.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vod2.d2 import Instances
from vod2.structures import BACKGROUND, TRACK_IDS, UNKNOWN, Clip, Frame


def object_ids(boxes: Tensor, targets: Instances | None, threshold: float) -> Tensor:
    """The track of the object that each box overlaps most, if with an IoU of at least `threshold`.

    Args:
        boxes: (M, 4) xyxy in pixels of the resized image.
        targets: the frame's ground truth with gt_boxes and gt_track_ids (G,), both of the resized image; or None.
        threshold: in [0, 1].

    Returns:
        (M,) int64: BACKGROUND where there is no such object, UNKNOWN where its track is negative. All are UNKNOWN
        without targets, or where these have no gt_track_ids.
    """
    if targets is None or not targets.has("gt_track_ids"):
        return torch.full((len(boxes),), UNKNOWN, dtype=torch.int64, device=boxes.device)
    tracks = targets.gt_track_ids.to(boxes.device)
    # Before the rows are picked: as it is, the -1 of an object without a track would read as BACKGROUND.
    tracks = tracks.where(tracks >= 0, UNKNOWN)
    if len(targets) == 0:  # there is no maximum over no objects
        return tracks.new_full((len(boxes),), BACKGROUND)
    overlap, best = box_iou(boxes, targets.gt_boxes.tensor.to(boxes)).max(dim=1)
    return tracks[best].where(overlap >= threshold, BACKGROUND)


def with_track_ids(clip: Clip, threshold: float) -> Clip:
    """A training clip in which all proposals tell which object they show (`TRACK_IDS`), see `object_ids`."""
    supports = [
        _with_track_ids(frame, source.get("instances"), threshold)
        for frame, source in zip(clip.supports, clip.support_inputs, strict=True)
    ]
    return clip.with_frames(_with_track_ids(clip.key, clip.targets, threshold), supports)


def _with_track_ids(frame: Frame, targets: Instances | None, threshold: float) -> Frame:
    proposals = frame.require_proposals()
    ids = object_ids(proposals.boxes, targets, threshold)
    return frame.with_(proposals=proposals.with_fields(**{TRACK_IDS: ids}))
