"""The configuration keys of RDN."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_rdn_config(cfg: CfgNode) -> None:
    """Add MODEL.RDN; heads and geometry are MODEL.VIDEO.RELATION, the support pool is MODEL.VIDEO.SUPPORT_TOPK."""
    cfg.MODEL.RDN = CfgNode()
    cfg.MODEL.RDN.NUM_BASIC = 2  # relation modules N_b of the basic stage
    cfg.MODEL.RDN.ADVANCED = True  # with the advanced stage; False is the paper's first training phase
    cfg.MODEL.RDN.ADVANCED_FC = False  # a layer h() between the two steps of the advanced stage, as in public code
    cfg.MODEL.RDN.ADVANCED_RATIO = 0.2  # r%: share of the support proposals that is refined, by objectness
    cfg.MODEL.RDN.ADVANCED_POOL = "all"  # the share of all of them (Algorithm 1), or of each "frame" (public code)
