"""The configuration keys of DFF."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_dff_config(cfg: CfgNode) -> None:
    """Add MODEL.DFF; the flow network is MODEL.FLOWNET, the distance of keyframes VIDEO.TEST_SCHEDULE.INTERVAL."""
    node = cfg.MODEL.DFF = CfgNode()
    node.STAGE = "res4"  # the map that is propagated: "res4", or "head_map" of R-FCN, as in the paper
    node.WARP_KEYFRAMES = False  # a keyframe's map, too, is warped by the flow to itself and scaled, as in MEGA's code
