"""The configuration keys of CSMN."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_csmn_config(cfg: CfgNode) -> None:
    """Add MODEL.CSMN."""
    cfg.MODEL.CSMN = CfgNode()
    stcie = cfg.MODEL.CSMN.STCIE = CfgNode()  # Level 1, stCIE
    stcie.STAGE = "res5"  # map that takes context: "res5" after the RPN, or "res4" before conv5
    stcie.RPN = True  # whether the RPN proposes on the encoded conv4; False: on the plain one
    stcie.RELATION_DIM = 256  # length of the relation features theta and phi
    stcie.NORMALISER = "count"  # how the weights of all cells are made: divided by their "count", or by "softmax"
    stcie.TEMPORAL = True  # whether context is of all frames; False: of a frame's own cells
    # Whether supports take context, too: all frames of a "sample" take it from each other, anew for each key frame; a
    # frame "entering" a memory takes it once, from those that are there; or only the key frame does ("plain" supports)
    stcie.SUPPORTS = "sample"
    spfa = cfg.MODEL.CSMN.SPFA = CfgNode()  # Level 2, SPFA; the support pool is MODEL.VIDEO.SUPPORT_TOPK
    # Patches of a RoI: 4, 9, 16, 49, the square of at most MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION; 1 for SELSA's
    # relations of whole RoIs
    spfa.PATCHES = 9
    spfa.IMPORTANCE = "learned"  # importance of the patches of a RoI: "learned", or "fixed" to the same for all
    # What correlations are divided by before the softmax over the supports; 0 for 1 / sqrt(numbers of a patch)
    spfa.TEMPERATURE = 0.0


read_when({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "StCIE"}, "MODEL.CSMN.STCIE")
read_when({"MODEL.CSMN.STCIE.STAGE": "res4"}, "MODEL.CSMN.STCIE.RPN")
read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator"}, "MODEL.CSMN.SPFA")
