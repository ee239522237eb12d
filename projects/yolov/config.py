"""The configuration keys of YOLOV."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_yolov_config(cfg: CfgNode) -> None:
    """Add MODEL.YOLOV."""
    cfg.MODEL.YOLOV = CfgNode()  # The support pool is MODEL.VIDEO.SUPPORT_TOPK, the key frame's MODEL.RESCORING.TOPK
    cfg.MODEL.YOLOV.NUM_HEADS = 4  # heads of both attentions, a divisor of half of the embedding
    # Least cosine, in [-1, 1], of the values of two boxes of which one is pooled for the other (tau in the paper)
    cfg.MODEL.YOLOV.SIMILARITY = 0.75


read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "YOLOVAggregator"}, "MODEL.YOLOV")
