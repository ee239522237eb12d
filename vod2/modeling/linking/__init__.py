"""Level 3: detections of a whole video are linked and rescored."""

from vod2.modeling.linking.arrays import FrameBoxes, pairwise_iou
from vod2.modeling.linking.base import BOX_LINKER_REGISTRY, BoxLinker, ClassLinker, Tracks, build_box_linker
from vod2.modeling.linking.greedy import GreedyLinking, pairwise_similarity
from vod2.modeling.linking.online import OnlineLinker, continue_tracks
from vod2.modeling.linking.paths import HeaviestPaths, Path
from vod2.modeling.linking.seq_nms import SeqNMS
from vod2.modeling.linking.tubelets import BLR, TubeletLinking

__all__ = [
    "BLR",
    "BOX_LINKER_REGISTRY",
    "BoxLinker",
    "ClassLinker",
    "GreedyLinking",
    "HeaviestPaths",
    "OnlineLinker",
    "Path",
    "SeqNMS",
    "TubeletLinking",
    "build_box_linker",
    "continue_tracks",
    "FrameBoxes",
    "Tracks",
    "pairwise_iou",
    "pairwise_similarity",
]
