"""Evaluators of detections in video."""

from vod2.evaluation.arrays import Detections, GroundTruth
from vod2.evaluation.coco import HotCOCOEvaluator, build_coco_evaluator
from vod2.evaluation.collect import DETECTIONS_FILE
from vod2.evaluation.comparison import Comparison, Difference, compare_methods
from vod2.evaluation.confusion import confusion_matrix
from vod2.evaluation.curves import Curve
from vod2.evaluation.error_split import ERROR_TYPES, ErrorSplit, classify_errors, split_errors
from vod2.evaluation.evaluated import EvaluatedDataset, load_evaluated_dataset
from vod2.evaluation.frame_kinds import read_frame_kinds
from vod2.evaluation.groups import GROUPINGS, Group, build_groups
from vod2.evaluation.linking import LinkingEvaluator
from vod2.evaluation.loop import StreamingModel
from vod2.evaluation.matching import (
    PROTOCOLS,
    MatchingProtocol,
    average_precision,
    get_protocol,
    match_detections,
    precision_recall,
)
from vod2.evaluation.mot_metrics import MOT_METRICS, VideoFrames, mot_metrics
from vod2.evaluation.motion import motion_iou, speed_groups
from vod2.evaluation.regions import is_ignored
from vod2.evaluation.relations import RELATIONS_FILE, RelationWriter, read_relations
from vod2.evaluation.runs import Run, read_run, refuse_differences, tally_run
from vod2.evaluation.stability import TrackIndex, TrackStability, index_tracks, stability, track_stability
from vod2.evaluation.uavdt import UAVDTEvaluator
from vod2.evaluation.vid import VIDEvaluator

__all__ = [
    "DETECTIONS_FILE",
    "ERROR_TYPES",
    "GROUPINGS",
    "PROTOCOLS",
    "Comparison",
    "Curve",
    "Detections",
    "Difference",
    "ErrorSplit",
    "EvaluatedDataset",
    "Group",
    "GroundTruth",
    "HotCOCOEvaluator",
    "LinkingEvaluator",
    "MOT_METRICS",
    "MatchingProtocol",
    "RELATIONS_FILE",
    "RelationWriter",
    "Run",
    "StreamingModel",
    "TrackIndex",
    "TrackStability",
    "UAVDTEvaluator",
    "VIDEvaluator",
    "VideoFrames",
    "average_precision",
    "build_coco_evaluator",
    "build_groups",
    "classify_errors",
    "compare_methods",
    "confusion_matrix",
    "get_protocol",
    "index_tracks",
    "is_ignored",
    "load_evaluated_dataset",
    "match_detections",
    "mot_metrics",
    "motion_iou",
    "precision_recall",
    "read_frame_kinds",
    "read_relations",
    "read_run",
    "refuse_differences",
    "speed_groups",
    "split_errors",
    "stability",
    "tally_run",
    "track_stability",
]
