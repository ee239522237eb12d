"""The configuration keys of RDN."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_rdn_config(cfg: CfgNode) -> None:
    """Add MODEL.RDN."""
    # Heads and geometry are MODEL.VIDEO.RELATION, the support pool is MODEL.VIDEO.SUPPORT_TOPK
    cfg.MODEL.RDN = CfgNode()
    cfg.MODEL.RDN.NUM_BASIC = 2  # relation modules N_b of the basic stage
    cfg.MODEL.RDN.ADVANCED = True  # whether there is an advanced stage; False is the paper's first training phase
    # Whether there is a layer h() between the two steps of the advanced stage, as in public code
    cfg.MODEL.RDN.ADVANCED_FC = False
    cfg.MODEL.RDN.ADVANCED_RATIO = 0.2  # share r%, in (0, 1], of the support proposals that is refined, by objectness
    # What the share is taken of: "all" support proposals (Algorithm 1), or those of each "frame" (public code)
    cfg.MODEL.RDN.ADVANCED_POOL = "all"


read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}, "MODEL.RDN", "MODEL.VIDEO.RELATION")
read_when({"MODEL.RDN.ADVANCED": True}, *(f"MODEL.RDN.ADVANCED_{key}" for key in ("FC", "RATIO", "POOL")))
