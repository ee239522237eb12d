"""vod2: video object detection on Detectron2. Importing it registers every component and project.

Example:
    >>> import vod2
    >>> from vod2.d2 import get_cfg
    >>> cfg = vod2.add_video_config(get_cfg())
    >>> "RDNAggregator" in vod2.PROPOSAL_AGGREGATOR_REGISTRY
    True
"""

from typing import TYPE_CHECKING

from vod2.commands import only_prints as _only_prints
from vod2.version import __version__

# `vod2 --help` is answered without these, which take seconds.
if TYPE_CHECKING or not _only_prints():
    from vod2.config import add_video_config, register_config
    from vod2.data import VideoDatasetMapper, build_video_test_loader, build_video_train_loader
    from vod2.detections import DetectionLinker, Result, link
    from vod2.engine import VideoPredictor, VideoTrainer
    from vod2.errors import UserError, VideoError
    from vod2.evaluation import StreamingModel, UAVDTEvaluator, VIDEvaluator
    from vod2.modeling import (
        BLR,
        BOX_LINKER_REGISTRY,
        PIXEL_AGGREGATOR_REGISTRY,
        PROPOSAL_AGGREGATOR_REGISTRY,
        Aggregated,
        BoxLinker,
        GreedyLinking,
        OnlineLinker,
        PixelAggregator,
        ProposalAggregator,
        SeqNMS,
        TubeletLinking,
        VideoDetector,
        VideoOneStage,
        VideoRCNN,
        VideoROIHeads,
        VideoRPN,
    )
    from vod2.moved import moved as _moved
    from vod2.projects import import_all as _import_projects
    from vod2.structures import Frame, ProposalSet, Role, Support, TemporalContext
    from vod2.temporal import (
        FrameMemory,
        GlobalSample,
        Keyframes,
        RandomNear,
        RandomVideo,
        ScheduleUnion,
        SlidingWindow,
    )

    _import_projects()

    __getattr__ = _moved(__name__, {"Union": "vod2.temporal:ScheduleUnion"})

__all__ = [
    "BLR",
    "BOX_LINKER_REGISTRY",
    "PIXEL_AGGREGATOR_REGISTRY",
    "PROPOSAL_AGGREGATOR_REGISTRY",
    "Aggregated",
    "BoxLinker",
    "DetectionLinker",
    "Frame",
    "FrameMemory",
    "GlobalSample",
    "GreedyLinking",
    "Keyframes",
    "OnlineLinker",
    "PixelAggregator",
    "ProposalAggregator",
    "ProposalSet",
    "RandomNear",
    "RandomVideo",
    "Result",
    "Role",
    "ScheduleUnion",
    "SeqNMS",
    "SlidingWindow",
    "StreamingModel",
    "Support",
    "TemporalContext",
    "TubeletLinking",
    "UAVDTEvaluator",
    "UserError",
    "VIDEvaluator",
    "VideoDatasetMapper",
    "VideoDetector",
    "VideoError",
    "VideoOneStage",
    "VideoPredictor",
    "VideoRCNN",
    "VideoROIHeads",
    "VideoRPN",
    "VideoTrainer",
    "__version__",
    "add_video_config",
    "build_video_test_loader",
    "build_video_train_loader",
    "link",
    "register_config",
]
