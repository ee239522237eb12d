"""The configuration keys of DFF."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_dff_config(cfg: CfgNode) -> None:
    """Add MODEL.DFF."""
    # The flow network is MODEL.FLOWNET, the distance of keyframes VIDEO.TEST_SCHEDULE.INTERVAL
    node = cfg.MODEL.DFF = CfgNode()
    node.STAGE = "res4"  # map that is propagated: "res4", or "head_map" of R-FCN, as in the paper
    # Whether a keyframe's map, too, is warped by the flow to itself and scaled, as in MEGA's code
    node.WARP_KEYFRAMES = False


read_when({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator"}, "MODEL.DFF", "MODEL.FLOWNET")
