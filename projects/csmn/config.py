"""The configuration keys of CSMN."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_csmn_config(cfg: CfgNode) -> None:
    """Add MODEL.CSMN; the support pool is MODEL.VIDEO.SUPPORT_TOPK, a RoI's side is ROI_BOX_HEAD.POOLER_RESOLUTION."""
    cfg.MODEL.CSMN = CfgNode()
    stcie = cfg.MODEL.CSMN.STCIE = CfgNode()  # PIXEL_AGGREGATOR "StCIE"
    stcie.STAGE = "res5"  # the map that takes context: "res5" after the RPN, or "res4" before RPN and conv5
    stcie.RELATION_DIM = 256  # length of the relation features theta and phi
    stcie.NORMALISER = "count"  # of the weights of all cells: divided by their "count", or their "softmax"
    stcie.TEMPORAL = True  # context of all frames; False: of the key frame's own cells
    spfa = cfg.MODEL.CSMN.SPFA = CfgNode()  # PROPOSAL_AGGREGATOR "SPFAAggregator"
    spfa.PATCHES = 16  # patches of a RoI: 1, 4, 16, 49, the square of at most POOLER_RESOLUTION
    spfa.IMPORTANCE = "learned"  # of the patches of a RoI: "learned", or "fixed" to the same for all
    spfa.TEMPERATURE = 1.0  # correlations are divided by it before the softmax over the supports
