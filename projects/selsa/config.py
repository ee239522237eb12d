"""The configuration keys of SELSA."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_selsa_config(cfg: CfgNode) -> None:
    """Add MODEL.SELSA; the support pool is MODEL.VIDEO.SUPPORT_TOPK."""
    cfg.MODEL.SELSA = CfgNode()
    cfg.MODEL.SELSA.NUM_LAYERS = 2  # fully connected layers, the box head's included, each followed by a relation
    cfg.MODEL.SELSA.NUM_HEADS = 1  # of a relation; 16 in the later form
    cfg.MODEL.SELSA.OUTPUT_PROJECTION = False  # a relation ends with a projection of its heads; True in the later form
    cfg.MODEL.SELSA.UPDATE_SUPPORTS = False  # the supports take relations to each other, too (the original form)
