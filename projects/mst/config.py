"""The configuration keys of MST."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_mst_config(cfg: CfgNode) -> None:
    """Add MODEL.MST; the alignment is MODEL.ALIGNER, heads and geometry are MODEL.VIDEO.RELATION."""
    mst = cfg.MODEL.MST = CfgNode()
    mst.FRAME = True  # frame level: attention over the aligned maps; False only aligns
    mst.QUERY = "all"  # frame level: "all" frames are enhanced, or the "reference" alone
    # Without frame level (FRAME False), what a support is aligned to at test. "neighbour": the frame nearest in time,
    # once, when it enters the memory; "reference": each key frame anew, and its proposals are, too (37 times the work)
    mst.ALIGN_TO = "neighbour"
    mst.KEY_STRIDE = 4  # frame level: keys are averages of so many cells squared; 1 for all pairs
    mst.NUM_PROPOSAL = 2  # relation modules of the proposal level
    mst.SCALED = False  # equation 8: products of queries and keys are divided by the square root of a head's dimension
    mst.ASPECT = False  # equation 9: with a third term, of the difference of two aspect ratios
    mst.INSTANCE = True  # with the instance level
    mst.INSTANCE_POOL = 0  # instance level: proposals of a support that are looked at, the best; 0 for all
    mst.ID_IOU = 0.5  # instance level, training: least IoU of a proposal with the object whose id it gets
    mst.TOPK = 20  # instance level, inference: key proposals K that are updated, those of the highest objectness
    mst.RATIO = 0.2  # instance level, inference: share r% of the supports, the most similar, that each looks at
