"""The configuration keys of LSTS."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_lsts_config(cfg: CfgNode) -> None:
    """Add MODEL.LSTS."""
    # What aligns is MODEL.ALIGNER, the distance of keyframes is VIDEO.TEST_SCHEDULE.INTERVAL
    node = cfg.MODEL.LSTS = CfgNode()
    node.STAGE = "head_map"  # the high-level feature: "head_map" of R-FCN, "res5" or "res4"
    node.LOW_BLOCKS = 4  # blocks of conv4 that a non-keyframe runs through (conv4_3 of the paper, counted from 0)
    # How a keyframe updates the memory: "none" (replaced), "fixed" (weights of .5) or "quality"
    node.UPDATE = "quality"
    # What a frame between takes of the memory: "none" (the aligned memory alone), "fixed" (weights of .5) or "quality"
    node.DENSE = "quality"
    node.TRANSFORM = True  # whether convolutions make a high-level feature of a non-keyframe's low-level one
    # What of a non-keyframe is aggregated: the "high"-level feature, or the "low"-level one, which is then transformed
    # for the comparison with the memory only
    node.DENSE_FEATURE = "high"
    # [kernel, channels] of each convolution of the transform, 0 channels for those of STAGE
    node.TRANSFORM_LAYERS = [[1, 256], [3, 256], [3, 0]]
    node.QUALITY_LAYERS = [[1, 256], [3, 16], [3, 1]]  # [kernel, channels] of each layer of the quality net
    node.QUALITY_RELU = True  # whether there is a ReLU between the layers of the quality net
    # Standard deviation of the first weights of transform and quality nets; 0 for those of He et al.
    node.INIT_STD = 0.0
    node.SHARED = False  # whether keyframes and the frames between share one aligner; False: one each
    node.SHARED_LOCATIONS = True  # whether two aligners look at the same locations
    node.TASK = "aggregate"  # a keyframe's task feature: "aggregate" of memory and its own feature, or the "memory"


read_when({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}, "MODEL.LSTS", "MODEL.ALIGNER")
read_when({"MODEL.LSTS.TRANSFORM": True}, "MODEL.LSTS.TRANSFORM_LAYERS")
read_when({"MODEL.LSTS.DENSE": ("fixed", "quality")}, "MODEL.LSTS.DENSE_FEATURE")
for _key in ("UPDATE", "DENSE"):
    read_when({f"MODEL.LSTS.{_key}": "quality"}, "MODEL.LSTS.QUALITY_LAYERS", "MODEL.LSTS.QUALITY_RELU")
    read_when({f"MODEL.LSTS.{_key}": "quality"}, "MODEL.LSTS.INIT_STD")
read_when({"MODEL.LSTS.TRANSFORM": True}, "MODEL.LSTS.INIT_STD")
# Without an update keyframes are not aligned
read_when({"MODEL.LSTS.UPDATE": ("fixed", "quality")}, "MODEL.LSTS.SHARED", "MODEL.LSTS.TASK")
read_when({"MODEL.LSTS.SHARED": False, "MODEL.ALIGNER.NAME": "LearnedSampling"}, "MODEL.LSTS.SHARED_LOCATIONS")
