"""The configuration keys of MEGA."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_mega_config(cfg: CfgNode) -> None:
    """Add MODEL.MEGA."""
    # Heads and geometry are MODEL.VIDEO.RELATION, the support pool is MODEL.VIDEO.SUPPORT_TOPK
    cfg.MODEL.MEGA = CfgNode()
    cfg.MODEL.MEGA.NUM_STAGES = 3  # local relation modules, of which all but the last update the supports, too
    # Share r, in (0, 1], of SUPPORT_TOPK: so many of each local frame's proposals, the best, are updated
    cfg.MODEL.MEGA.ADVANCED_RATIO = 0.2
    # Relation modules that look at GLOBAL frames: one before the stages, the others after them; 0 for none
    cfg.MODEL.MEGA.NUM_GLOBAL = 2
    cfg.MODEL.MEGA.MEMORY = 25  # frames that have left the local window and are still looked at; 0 for none


read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator"}, "MODEL.MEGA", "MODEL.VIDEO.RELATION")
