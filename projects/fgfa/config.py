"""The configuration keys of FGFA."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_fgfa_config(cfg: CfgNode) -> None:
    """Add MODEL.FGFA."""
    cfg.MODEL.FGFA = CfgNode()  # The flow network is MODEL.FLOWNET
    cfg.MODEL.FGFA.STAGE = "res4"  # map that is aggregated: "res4", or "head_map" of R-FCN, as in the paper
    cfg.MODEL.FGFA.EMBEDDING_DIMS = (512, 512, 2048)  # channels of the embedding's 1x1, 3x3 and 1x1 convolution


read_when({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator"}, "MODEL.FGFA", "MODEL.FLOWNET")
