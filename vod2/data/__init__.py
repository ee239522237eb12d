"""Datasets, clips and loaders."""

from vod2.data import datasets
from vod2.data.clips import (
    CONTEXTS,
    ForeignMapper,
    TrainingLoader,
    TripletVideos,
    TruncatedResize,
    VideoDatasetMapper,
    VideoInferenceSampler,
    build_video_test_loader,
    build_video_train_loader,
    check_context,
)
from vod2.data.datasets.video_index import VideoIndex, as_video_dicts
from vod2.moved import moved

__all__ = [
    "CONTEXTS",
    "ForeignMapper",
    "TrainingLoader",
    "TripletVideos",
    "TruncatedResize",
    "VideoDatasetMapper",
    "VideoIndex",
    "VideoInferenceSampler",
    "as_video_dicts",
    "build_video_test_loader",
    "build_video_train_loader",
    "check_context",
    "datasets",
]

__getattr__ = moved(
    __name__,
    {
        "augmentation": "vod2.data.clips.augmentation",
        "bad_frames": "vod2.data.clips.bad_frames",
        "build": "vod2.data.clips.build",
        "camera": "vod2.video.camera",
        "check": "vod2.data.checks.walk",
        "check_coco": "vod2.data.checks.coco",
        "check_formats": "vod2.data.checks.formats",
        "check_ilsvrc": "vod2.data.checks.ilsvrc",
        "check_labels": "vod2.data.checks.labels",
        "check_report": "vod2.data.checks.report",
        "check_types": "vod2.data.checks.findings",
        "check_yolo": "vod2.data.checks.yolo",
        "contexts": "vod2.data.clips.contexts",
        "decoding": "vod2.video.decoding",
        "frame_annotations": "vod2.data.datasets.frame_annotations",
        "frames": "vod2.data.clips.frames",
        "matlab": "vod2.data.datasets.matlab",
        "reader": "vod2.video.reader",
        "resizing": "vod2.data.clips.resizing",
        "samplers": "vod2.data.clips.samplers",
        "seeking": "vod2.video.seeking",
        "track_linking": "vod2.data.datasets.track_linking",
        "video_index": "vod2.data.datasets.video_index",
        "video_mapper": "vod2.data.clips.video_mapper",
    },
)
