"""A detector small enough that a test may run it on a whole video, and videos of noise for it.

D: embedding (64), K: classes (5). Images are 64 x 96, so that conv4 and conv5 have 4 x 6 cells.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import vod2
from helpers.device import device
from vod2.d2 import Boxes, CfgNode, GeneralizedRCNN, Instances, ROIPooler, build_model, get_cfg
from vod2.engine.random_weights import draw_weights
from vod2.modeling import VideoRCNN
from vod2.modeling.roi_heads.pooler import build_pooler

ROOT = Path(__file__).resolve().parents[2]
IMAGE_SIZE = (64, 96)
NUM_CLASSES = 5
DIM = 64

TINY = {
    "MODEL.NARROW_RESNET.STEM_CHANNELS": 8,
    "MODEL.NARROW_RESNET.CHANNELS": [8, 12, 16, 24],
    "MODEL.RPN.CONV_DIMS": [16],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 60,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": DIM,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
    "MODEL.VIDEO.SUPPORT_TOPK": 6,
    "MODEL.VIDEO.RELATION.NUM_HEADS": 4,
    "MODEL.VIDEO.RELATION.GEOMETRY_DIM": 16,
    "INPUT.MIN_SIZE_TEST": IMAGE_SIZE[0],
    "INPUT.MAX_SIZE_TEST": IMAGE_SIZE[1],
}

DOOR = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
}
"""The keys that turn the tiny VideoRCNN into Detectron2's own Faster R-CNN."""


LSTS_KEYS = {
    "MODEL.ALIGNER.NAME": "LearnedSampling",
    "MODEL.ALIGNER.EMBEDDING_DIM": 8,
    "MODEL.ALIGNER.NUM_LOCATIONS": 6,
    "MODEL.LSTS.STAGE": "res4",
    "MODEL.LSTS.LOW_BLOCKS": 1,
    "MODEL.LSTS.TRANSFORM_LAYERS": [[1, 8], [3, 8], [3, 0]],
    "MODEL.LSTS.QUALITY_LAYERS": [[1, 8], [3, 4], [3, 1]],
    "VIDEO.TEST_SCHEDULE.INTERVAL": 3,
}
"""LSTS on the tiny VideoRCNN."""

RFCN_KEYS = {
    "MODEL.BACKBONE.NAME": "build_head_map_backbone",
    "MODEL.HEAD_MAP.BOTTOM_UP": "build_narrow_resnet_backbone",
    "MODEL.HEAD_MAP.CHANNELS": 32,
    "MODEL.HEAD_MAP.DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["rpn"],
    "MODEL.RPN.CONV_DIMS": [],
    "MODEL.ROI_HEADS.NAME": "RFCNHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["head"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_BOX_HEAD.NAME": "MeanBoxHead",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.VIDEO.OHEM": 8,
}
"""R-FCN's heads on the tiny VideoRCNN."""


_LEVELS = ["p3", "p4", "p5"]
PYRAMID_KEYS = {
    "MODEL.BACKBONE.NAME": "build_narrow_resnet_fpn_backbone",
    "MODEL.NARROW_RESNET.STRIDES": [1, 2, 2, 2],
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FPN.NORM": "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[24], [36], [54]],
    "MODEL.RPN.IN_FEATURES": _LEVELS,
    "MODEL.ROI_HEADS.IN_FEATURES": _LEVELS,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1e-4,  # drawn weights see background in most boxes
}
"""A feature pyramid on the tiny VideoRCNN, small as its images are."""


def tiny_cfg(keys: dict | None = None) -> CfgNode:
    """configs/quick/Base.yaml made smaller still, on the tests' device, with `keys` {dotted key: value} on top."""
    cfg = vod2.add_video_config(get_cfg())
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "Base.yaml"))
    for key, value in (TINY | {"MODEL.DEVICE": str(device())} | (keys or {})).items():
        cfg.merge_from_list([key, value])
    return cfg


def build_detector(keys: dict | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> VideoRCNN:
    """The tiny VideoRCNN in inference mode, with weights for which scores and boxes differ clearly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what draw_weights leaves as it was initialised, such as LSTS's locations
        model = build_model(tiny_cfg(keys))
    draw_weights(model, seed)
    return model.to(dtype).eval()


def build_image_detector(state: dict[str, Tensor], keys: dict | None = None) -> GeneralizedRCNN:
    """Detectron2's Faster R-CNN of the same sizes with the parameters `state`, in inference mode.

    It pools with the project's operator, so that it may be compared bit by bit. That this operator pools as
    Detectron2's does, to rounding, is shown in tests/modeling/test_pooler.py.
    """
    cfg = tiny_cfg(DOOR | (keys or {}))
    model = build_model(cfg)
    model.load_state_dict(state)
    if isinstance(getattr(model.roi_heads, "box_pooler", None), ROIPooler):
        model.roi_heads.box_pooler = build_pooler(cfg, model.backbone.output_shape())
    return model.eval()


def make_video(length: int, seed: int = 0, size: tuple[int, int] = IMAGE_SIZE) -> list[Tensor]:
    """`length` uint8 images (3, H, W) on the CPU: coarse noise, so that the frames differ in every cell."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (length, 3, size[0] // 8, size[1] // 8), generator=rng)
    images = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return list(images.to(torch.uint8))


def make_targets(boxes: list[list[float]] | None = None, classes: list[int] | None = None) -> Instances:
    """Ground truth on the CPU with the boxes (xyxy pixels), by default two that the anchors can reach."""
    if boxes is None:
        boxes, classes = [[4.0, 4.0, 30.0, 34.0], [40.0, 10.0, 84.0, 58.0]], [1, 3]
    targets = Instances(IMAGE_SIZE)
    targets.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    targets.gt_classes = torch.tensor(classes or [], dtype=torch.int64)
    return targets


def tracked(tracks: list[int] | None, boxes: list[list[float]] | None = None) -> Instances:
    """The ground truth of `make_targets`, its objects with `tracks`."""
    targets = make_targets(boxes, None if boxes is None else [0] * len(boxes))
    if tracks is not None:
        targets.gt_track_ids = torch.tensor(tracks, dtype=torch.int64)
    return targets


def freeze_statistics(model: nn.Module) -> None:
    """Let normalisation in training use its running statistics, so that an image does not depend on its batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def assert_same_detections(actual: Instances, expected: Instances, tolerance: float = 0.0) -> None:
    """Boxes (absolute and relative), scores and classes in the same order; there must be some."""
    assert actual.image_size == expected.image_size
    assert len(expected) > 0, "a comparison of nothing proves nothing"
    assert actual.pred_classes.tolist() == expected.pred_classes.tolist()
    for found, wanted in (
        (actual.pred_boxes.tensor, expected.pred_boxes.tensor),
        (actual.scores, expected.scores),
    ):
        torch.testing.assert_close(found.cpu(), wanted.cpu(), rtol=tolerance, atol=tolerance)
