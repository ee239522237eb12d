"""The configuration keys of MST."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_mst_config(cfg: CfgNode) -> None:
    """Add MODEL.MST."""
    # The alignment is MODEL.ALIGNER, heads (of all levels) and geometry are MODEL.VIDEO.RELATION
    mst = cfg.MODEL.MST = CfgNode()
    mst.FRAME = True  # whether there is a frame level, attention over the aligned maps; False only aligns
    mst.QUERY = "all"  # which frames the frame level enhances: "all", or the "reference" alone
    # What a support is aligned to at test without frame level. "neighbour": the frame nearest in time, once, when it
    # enters the memory; "reference": each key frame anew, and its proposals are made anew, too (37 times the work)
    mst.ALIGN_TO = "neighbour"
    mst.KEY_STRIDE = 4  # side, in cells, of the squares whose averages are the keys of the frame level; 1 for all pairs
    mst.NUM_PROPOSAL = 2  # relation modules of the proposal level; 0 for none
    # Whether products of queries and keys are divided by the square root of a head's dimension (equation 8)
    mst.SCALED = False
    mst.ASPECT = False  # whether equation 9 has a third term, of the difference of two aspect ratios
    mst.INSTANCE = True  # whether there is an instance level
    mst.INSTANCE_POOL = 0  # proposals of a support that the instance level looks at, the best; 0 for all
    mst.ID_IOU = 0.5  # training: least IoU, in [0, 1], of a proposal with the object whose id it gets
    mst.TOPK = 20  # inference: key proposals K that the instance level updates, those of the highest objectness
    mst.RATIO = 0.2  # inference: share r%, in (0, 1], of the supports that each of these looks at, the most similar


_FRAMES = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MSTFrames"}
_PROPOSALS = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator"}
read_when(_FRAMES, "MODEL.MST.FRAME", "MODEL.ALIGNER")
read_when(_FRAMES | {"MODEL.MST.FRAME": True}, "MODEL.VIDEO.RELATION")
read_when({"MODEL.MST.FRAME": True}, "MODEL.MST.QUERY", "MODEL.MST.KEY_STRIDE")
read_when({"MODEL.MST.FRAME": False}, "MODEL.MST.ALIGN_TO")
read_when(_PROPOSALS, "MODEL.MST.NUM_PROPOSAL", "MODEL.MST.INSTANCE", "MODEL.VIDEO.RELATION")
read_when(_PROPOSALS, "MODEL.MST.SCALED", "MODEL.MST.ASPECT")
read_when({"MODEL.MST.INSTANCE": True}, *(f"MODEL.MST.{key}" for key in ("INSTANCE_POOL", "ID_IOU", "TOPK", "RATIO")))
