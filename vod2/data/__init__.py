"""Datasets, clips and loaders."""

from vod2.data import datasets
from vod2.data.build import as_video_dicts, build_video_test_loader, build_video_train_loader
from vod2.data.contexts import CONTEXTS, ForeignMapper, check_context
from vod2.data.resizing import TruncatedResize
from vod2.data.samplers import TripletVideos, VideoInferenceSampler
from vod2.data.video_index import VideoIndex
from vod2.data.video_mapper import VideoDatasetMapper
from vod2.moved import moved

__all__ = [
    "CONTEXTS",
    "ForeignMapper",
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
        "camera": "vod2.video.camera",
        "decoding": "vod2.video.decoding",
        "reader": "vod2.video.reader",
        "seeking": "vod2.video.seeking",
    },
)
