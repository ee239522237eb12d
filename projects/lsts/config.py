"""The configuration keys of LSTS."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_lsts_config(cfg: CfgNode) -> None:
    """Add MODEL.LSTS; what aligns is MODEL.ALIGNER, the distance of keyframes is VIDEO.TEST_SCHEDULE.INTERVAL."""
    node = cfg.MODEL.LSTS = CfgNode()
    node.STAGE = "head_map"  # the high-level feature: "head_map" of R-FCN, "res5" or "res4"
    node.LOW_BLOCKS = 4  # blocks of conv4 that a non-keyframe runs through (conv4_3 of the paper, counted from 0)
    node.UPDATE = "quality"  # memory at a keyframe: "none" (replaced), "fixed" (weights of .5) or "quality"
    node.DENSE = "quality"  # frames between: "none" (aligned memory only), "fixed" (weights of .5) or "quality"
    node.TRANSFORM = True  # convolutions that make a high-level feature of a non-keyframe's low-level one
    # What of a non-keyframe is aggregated: the "high"-level feature, or the "low"-level one, which is then transformed
    # for the comparison with the memory only
    node.DENSE_FEATURE = "high"
    node.TRANSFORM_LAYERS = [[1, 256], [3, 256], [3, 0]]  # [kernel, channels] of each, 0 for those of STAGE
    node.QUALITY_LAYERS = [[1, 256], [3, 16], [3, 1]]  # [kernel, channels] of each layer of the quality net
    node.QUALITY_RELU = True  # ReLU between the layers of the quality net
    node.INIT_STD = 0.0  # of the first weights of transform and quality nets; 0 for those of He et al.
    node.SHARED = False  # one aligner for keyframes and for the frames between, else one each
    node.SHARED_LOCATIONS = True  # where there are two aligners, they look at the same locations
    node.TASK = "aggregate"  # a keyframe's task feature: "aggregate" of memory and its own feature, or the "memory"
