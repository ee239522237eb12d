"""Tiny detectors of the methods that are exported, with weights in a file."""

from pathlib import Path

import numpy as np
import torch

from helpers.models import LSTS_KEYS, RFCN_KEYS, build_detector, make_video, tiny_cfg
from vod2.d2 import CfgNode, Instances

RDN_KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "MODEL.RDN.NUM_BASIC": 1,
    # The embedding of positions multiplies the rounding of boxes by this: 100 makes 1e-3 of 1e-5 in random weights.
    "MODEL.VIDEO.RELATION.GEOMETRY_SCALE": 1.0,
    "MODEL.RPN.NMS_THRESH": 0.3,  # frames have fewer proposals than there is room for
    "VIDEO.TEST_SCHEDULE.NAME": "SlidingWindow",
    "VIDEO.TEST_SCHEDULE.RADIUS": 1,
}
SELSA_KEYS = {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "VIDEO.TEST_SCHEDULE.NAME": "GlobalSample",
    "VIDEO.TEST_SCHEDULE.COUNT": 3,
}
KEYFRAME_KEYS = LSTS_KEYS | {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator",
    "VIDEO.TEST_SCHEDULE.NAME": "Keyframes",
}
EXPORTED = {"single": {}, "R-FCN": RFCN_KEYS, "RDN": RDN_KEYS, "SELSA": SELSA_KEYS, "LSTS": KEYFRAME_KEYS}
"""{method: keys of the tiny detector}."""


def cfg_with_weights(folder: Path, keys: dict) -> CfgNode:
    """The configuration of a tiny detector on the CPU, whose weights are in a file of the folder."""
    weights = folder / "weights.pth"
    torch.save({"model": build_detector(keys).state_dict()}, weights)
    return tiny_cfg(keys | {"MODEL.WEIGHTS": str(weights), "MODEL.DEVICE": "cpu", "DATASETS.TEST": ()})


def bgr_video(length: int, size: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    """The frames of `make_video` as a stream takes them: (H, W, 3) uint8."""
    return [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()) for frame in make_video(length, size=size)]


def by_proposal(instances: Instances) -> Instances:
    """In an order that nearly equal scores do not change."""
    return instances[(instances.pred_classes * 1000 + instances.proposal_index).argsort()]


def assert_same_stream(expected, found) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.index == other.index
        assert len(one.instances) == len(other.instances) > 0
        assert one.instances.image_size == other.instances.image_size
        instances, others = by_proposal(one.instances), by_proposal(other.instances)
        assert instances.pred_classes.tolist() == others.pred_classes.tolist()
        assert instances.proposal_index.tolist() == others.proposal_index.tolist()
        assert torch.allclose(instances.scores, others.scores, atol=1e-3)
        assert torch.allclose(instances.pred_boxes.tensor, others.pred_boxes.tensor, atol=1e-2)
