"""Evaluators of detections in video."""

from vod2.evaluation.curves import Curve
from vod2.evaluation.linking import LinkingEvaluator
from vod2.evaluation.loop import StreamingModel
from vod2.evaluation.matching import (
    PROTOCOLS,
    Detections,
    GroundTruth,
    MatchingProtocol,
    average_precision,
    get_protocol,
    match_detections,
    precision_recall,
)
from vod2.evaluation.motion import motion_iou, speed_groups
from vod2.evaluation.relations import RELATIONS_FILE, RelationWriter, read_relations
from vod2.evaluation.stability import TrackIndex, TrackStability, index_tracks, stability, track_stability
from vod2.evaluation.uavdt import UAVDTEvaluator, is_ignored
from vod2.evaluation.vid import VIDEvaluator

__all__ = [
    "PROTOCOLS",
    "Curve",
    "Detections",
    "GroundTruth",
    "LinkingEvaluator",
    "MatchingProtocol",
    "RELATIONS_FILE",
    "RelationWriter",
    "StreamingModel",
    "read_relations",
    "TrackIndex",
    "TrackStability",
    "UAVDTEvaluator",
    "VIDEvaluator",
    "average_precision",
    "get_protocol",
    "index_tracks",
    "is_ignored",
    "match_detections",
    "motion_iou",
    "precision_recall",
    "speed_groups",
    "stability",
    "track_stability",
]
