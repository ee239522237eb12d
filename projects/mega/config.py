"""The configuration keys of MEGA."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_mega_config(cfg: CfgNode) -> None:
    """Add MODEL.MEGA; heads and geometry are MODEL.VIDEO.RELATION, the support pool is MODEL.VIDEO.SUPPORT_TOPK."""
    cfg.MODEL.MEGA = CfgNode()
    cfg.MODEL.MEGA.NUM_STAGES = 3  # local relation modules, of which all but the last update the supports, too
    cfg.MODEL.MEGA.ADVANCED_RATIO = 0.2  # the best round(r * SUPPORT_TOPK) of each local frame are updated
    cfg.MODEL.MEGA.NUM_GLOBAL = 2  # looks at GLOBAL frames: one before the stages, the others after them; 0 for none
    cfg.MODEL.MEGA.MEMORY = 25  # frames that have left the local window and are still looked at; 0 for none
