"""Detections of any detector, in files or in memory: read, linked, filled and written."""

from vod2.detections.files import DetectionsOfFile, read_detections
from vod2.detections.filling import GapFiller, fill_gaps
from vod2.detections.foreign import as_instances, as_video
from vod2.detections.linking import LINKERS, DetectionLinker, link, named_linker
from vod2.detections.steadiness import linked_track_stability
from vod2.detections.views import Result, ResultViews

__all__ = [
    "LINKERS",
    "DetectionLinker",
    "DetectionsOfFile",
    "GapFiller",
    "Result",
    "ResultViews",
    "as_instances",
    "as_video",
    "fill_gaps",
    "link",
    "linked_track_stability",
    "named_linker",
    "read_detections",
]
