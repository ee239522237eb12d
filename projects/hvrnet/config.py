"""The configuration keys of HVR-Net."""

from vod2.config import register_config
from vod2.d2 import CfgNode


@register_config
def add_hvrnet_config(cfg: CfgNode) -> None:
    """Add MODEL.HVRNET; batches are DATALOADER.TRIPLET, the support pool is MODEL.VIDEO.SUPPORT_TOPK."""
    node = cfg.MODEL.HVRNET = CfgNode()
    node.NUM_INTRA = 3  # relations within the video, 2 or 3; the third comes with the skip connection
    node.NUM_INTER = 1  # relations between videos; 0 is the first stage of the training
    # How alike two videos are: "mean" of their maps over space and frames, by cosine; "max" over frames of the mean
    # over space, by scaled dot product (public code); "random" for partners drawn at random (Table 2, Simple)
    node.VIDEO_SIMILARITY = "mean"
    node.VIDEO_LEVEL = "res4"  # the feature map that videos are compared by
    node.PROPOSALS = "hard"  # a proposal attends to its "hard" P+ and P-, or to "all" key proposals of the triplet
    node.INTER_SHARE = 0.5  # of the videos of a batch that take from others; the rest are classified alone, as at test
    node.PROPOSAL_SIMILARITY = "cosine"  # in the relation loss: "cosine" or "dot"
    node.MARGIN = 0.3  # lambda of equation 6; 10 goes with "dot"
    node.RELATION_WEIGHT = 1.0  # gamma of equation 5; 0 for no relation loss
    node.AUXILIARY_WEIGHT = 1.0  # of the classification after the second intra-video relation; 0 for none
    node.TEST_INTER = "none"  # in inference the relation between videos is dropped, or looks at the same "video"
