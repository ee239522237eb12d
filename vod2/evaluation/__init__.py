"""Evaluators of detections in video."""

from vod2.evaluation.loop import StreamingModel
from vod2.evaluation.matching import (
    PROTOCOLS,
    Detections,
    GroundTruth,
    MatchingProtocol,
    average_precision,
    get_protocol,
    match_detections,
)
from vod2.evaluation.vid import VIDEvaluator

__all__ = [
    "PROTOCOLS",
    "Detections",
    "GroundTruth",
    "MatchingProtocol",
    "StreamingModel",
    "VIDEvaluator",
    "average_precision",
    "get_protocol",
    "match_detections",
]
