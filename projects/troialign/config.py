"""The configuration keys of Temporal RoI Align."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_troialign_config(cfg: CfgNode) -> None:
    """Add MODEL.TROIALIGN."""
    cfg.MODEL.TROIALIGN = CfgNode()
    cfg.MODEL.TROIALIGN.NUM_SIMILAR = 2  # K, cells of a support's map that a cell of a RoI takes from
    # Heads of the temporal attention, a divisor of the channels; 0 for the mean over the frames
    cfg.MODEL.TROIALIGN.NUM_HEADS = 4


_HEADS = {"MODEL.ROI_HEADS.NAME": "TemporalROIHeads"}
read_when(_HEADS, "MODEL.TROIALIGN")
# What `VideoROIHeads`, its base, reads
read_when(_HEADS, "MODEL.VIDEO.PROPOSAL_AGGREGATOR", "MODEL.VIDEO.OHEM", "MODEL.VIDEO.IGNORE_OVERLAP")
read_when(_HEADS, "MODEL.VIDEO.REDUCE_CHANNELS")
