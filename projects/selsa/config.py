"""The configuration keys of SELSA."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_selsa_config(cfg: CfgNode) -> None:
    """Add MODEL.SELSA."""
    cfg.MODEL.SELSA = CfgNode()  # The support pool is MODEL.VIDEO.SUPPORT_TOPK
    cfg.MODEL.SELSA.NUM_LAYERS = 2  # fully connected layers, the box head's included, each followed by a relation
    cfg.MODEL.SELSA.NUM_HEADS = 1  # heads of a relation; 16 in the later form
    # Whether a relation ends with a projection of its heads; True in the later form
    cfg.MODEL.SELSA.OUTPUT_PROJECTION = False
    cfg.MODEL.SELSA.UPDATE_SUPPORTS = False  # whether the supports take relations to each other, too (original form)


read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator"}, "MODEL.SELSA")
