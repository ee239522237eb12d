"""A detector without RoIs: a dense head (FCOS), and what scores its best boxes anew with other frames."""

from vod2.modeling.one_stage.fcos import FCOS
from vod2.modeling.one_stage.rescoring import RescoringHeads
from vod2.modeling.one_stage.targets import Assignment, FCOSAssigner, centerness_of, locations_of
from vod2.modeling.one_stage.video_one_stage import VideoOneStage

__all__ = [
    "FCOS",
    "Assignment",
    "FCOSAssigner",
    "RescoringHeads",
    "VideoOneStage",
    "centerness_of",
    "locations_of",
]
