"""The configuration keys of MAMBA."""

from vod2.config import read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_mamba_config(cfg: CfgNode) -> None:
    """Add MODEL.MAMBA."""
    # The instance level; what a frame writes are its best MODEL.VIDEO.SUPPORT_TOPK proposals
    node = cfg.MODEL.MAMBA = CfgNode()
    node.NUM_LAYERS = 2  # fully connected layers, the box head's included, each followed by an enhancement
    node.NUM_HEADS = 16  # heads of an enhancement
    node.MEMORY = 20000  # features that the bank of a stream holds, of each layer; 0 for no bank
    node.KEYS = 2000  # features of the bank that a frame reads
    # Which ones: "random", "score" (those of the highest scores), or "frequency" (drawn by the softmax of the scores)
    node.SAMPLING = "random"
    pixel = node.PIXEL = CfgNode()  # The pixel level, with a bank of its own
    pixel.STAGE = "res5"  # the map that is enhanced
    pixel.NUM_HEADS = 16  # heads of the enhancement, a divisor of the channels
    pixel.CELLS = 1000  # cells of a support that are read, and of a frame that are written
    pixel.MEMORY = 20000  # cells that the bank of a stream holds; 0 for no bank
    pixel.KEYS = 2000  # cells of the bank that a frame reads
    pixel.SAMPLING = "random"  # which cells, as above; the score of a cell is the length of its feature


read_when(
    {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MAMBAAggregator"},
    *(f"MODEL.MAMBA.{key}" for key in ("NUM_LAYERS", "NUM_HEADS", "MEMORY", "KEYS", "SAMPLING")),
)
read_when({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MAMBAPixels"}, "MODEL.MAMBA.PIXEL")
