"""Detection in archives of many videos: manifest, workers here or on a cluster, segments, result files."""

from vod2.archive.cluster import RayWorkers
from vod2.archive.coordinator import Coordinator, Progress
from vod2.archive.detector import ArchiveDetector, Layout, Settings, carries_state
from vod2.archive.inputs import VIDEO_SUFFIXES, Signature, find_videos, signature_of, video_id
from vod2.archive.manifest import Counts, Manifest, Scan, Video
from vod2.archive.results import RESULT_FORMATS, FrameRecord, read_records, require_format, result_file
from vod2.archive.segments import Cutting, Reach, join, reach_of
from vod2.archive.tasks import Runner, Segment, Workers
from vod2.archive.workers import LocalWorkers

__all__ = [
    "RESULT_FORMATS",
    "VIDEO_SUFFIXES",
    "ArchiveDetector",
    "Coordinator",
    "Counts",
    "Cutting",
    "FrameRecord",
    "Layout",
    "LocalWorkers",
    "Manifest",
    "Progress",
    "RayWorkers",
    "Reach",
    "Runner",
    "Scan",
    "Segment",
    "Settings",
    "Signature",
    "Video",
    "Workers",
    "carries_state",
    "find_videos",
    "join",
    "reach_of",
    "read_records",
    "require_format",
    "result_file",
    "signature_of",
    "video_id",
]
