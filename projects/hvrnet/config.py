"""The configuration keys of HVR-Net."""

from vod2.config import NONZERO, read_when, register_config
from vod2.d2 import CfgNode


@register_config
def add_hvrnet_config(cfg: CfgNode) -> None:
    """Add MODEL.HVRNET."""
    # Batches are DATALOADER.TRIPLET, the support pool is MODEL.VIDEO.SUPPORT_TOPK
    node = cfg.MODEL.HVRNET = CfgNode()
    node.NUM_INTRA = 3  # relations within the video, 2 or 3; the third comes with the skip connection
    # Supports in the third relation: "both" as they were before the first one and as it left them, side by side
    # (section 4.1), or the "initial" ones alone (public code)
    node.SKIP = "both"
    node.NUM_INTER = 1  # relations between videos; 0 is the first stage of the training
    # How alike two videos are: "mean" of their maps over space and frames, by cosine; "max" over frames of the mean
    # over space, by scaled dot product (public code); "random" for partners drawn at random (Table 2, Simple)
    node.VIDEO_SIMILARITY = "mean"
    # Which video is V-: the one most like the "target", or like target and V+, "both" (public code)
    node.VIDEO_NEGATIVE = "target"
    node.VIDEO_LEVEL = "res4"  # feature map that videos are compared by: "res4", "res5", or "p4" of a pyramid
    node.PROPOSALS = "hard"  # what a proposal attends to: its "hard" P+ and P-, or "all" key proposals of the triplet
    # What P+ and P- are chosen by: the cosine of "features" after the relations within the video (section 3.3), or
    # query and key of the first relation between videos, its "kernel" (public code). The relation loss compares the
    # same.
    node.MINING = "features"
    # Share, in [0, 1], of the videos of a batch that take from others; in the rest the relation does what TEST_INTER
    # says
    node.INTER_SHARE = 0.5
    # What the relation loss compares two proposals by, d of equation 6: "cosine", "dot", or "euclidean" with its sign
    # corrected
    node.PROPOSAL_SIMILARITY = "cosine"
    node.MARGIN = 0.3  # margin lambda of equation 6; 10 goes with "dot"
    node.RELATION_WEIGHT = 1.0  # weight gamma of the relation loss, equation 5; 0 for no relation loss
    node.AUXILIARY_WEIGHT = 1.0  # weight of the losses of the branch after the second intra-video relation; 0 for none
    node.AUXILIARY_BOXES = False  # whether that branch regresses boxes, too, not only classes (public code)
    node.TEST_INTER = "video"  # what the relation between videos looks at in inference: the same "video", or "none"


read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "HVRAggregator"}, "MODEL.HVRNET")
read_when(
    {"MODEL.HVRNET.NUM_INTER": NONZERO},
    *(
        f"MODEL.HVRNET.{key}"
        for key in (
            "VIDEO_SIMILARITY",
            "VIDEO_NEGATIVE",
            "VIDEO_LEVEL",
            "PROPOSALS",
            "MINING",
            "INTER_SHARE",
            "RELATION_WEIGHT",
            "TEST_INTER",
        )
    ),
)
read_when({"MODEL.HVRNET.NUM_INTRA": 3}, "MODEL.HVRNET.SKIP")
read_when({"MODEL.HVRNET.RELATION_WEIGHT": NONZERO}, "MODEL.HVRNET.MARGIN", "MODEL.HVRNET.PROPOSAL_SIMILARITY")
read_when({"MODEL.HVRNET.AUXILIARY_WEIGHT": NONZERO}, "MODEL.HVRNET.AUXILIARY_BOXES")
