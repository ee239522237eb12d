"""The configuration keys of CSMN."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_csmn_config(cfg: CfgNode) -> None:
    """Add MODEL.CSMN; the support pool is MODEL.VIDEO.SUPPORT_TOPK, a RoI's side is ROI_BOX_HEAD.POOLER_RESOLUTION."""
    cfg.MODEL.CSMN = CfgNode()
    stcie = cfg.MODEL.CSMN.STCIE = CfgNode()  # PIXEL_AGGREGATOR "StCIE"
    stcie.STAGE = "res5"  # the map that takes context: "res5" after the RPN, or "res4" before conv5
    stcie.RPN = True  # STAGE "res4": the RPN proposes on the encoded conv4; False: on the plain one
    stcie.RELATION_DIM = 256  # length of the relation features theta and phi
    stcie.NORMALISER = "count"  # of the weights of all cells: divided by their "count", or their "softmax"
    stcie.TEMPORAL = True  # context of all frames; False: of the key frame's own cells
    # Whether supports take context, too: all frames of a "sample" take it from each other, anew for each key frame; a
    # frame "entering" a memory takes it once, from those that are there; or only the key frame does ("plain" supports).
    stcie.SUPPORTS = "sample"
    spfa = cfg.MODEL.CSMN.SPFA = CfgNode()  # PROPOSAL_AGGREGATOR "SPFAAggregator"
    # Patches of a RoI: 4, 9, 16, 49, the square of at most POOLER_RESOLUTION; 1 for SELSA's relations of whole RoIs.
    spfa.PATCHES = 9
    spfa.IMPORTANCE = "learned"  # of the patches of a RoI: "learned", or "fixed" to the same for all
    # Correlations are divided by it before the softmax over the supports; 0 for 1 / sqrt(numbers of a patch).
    spfa.TEMPERATURE = 0.0
