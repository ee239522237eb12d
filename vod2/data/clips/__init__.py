"""From the dicts of datasets to the clips that a model takes: frames, augmentation, samplers, loaders."""

from vod2.data.clips.build import build_video_test_loader, build_video_train_loader
from vod2.data.clips.contexts import CONTEXTS, ForeignMapper, check_context
from vod2.data.clips.frames import ClipReader, read_frames
from vod2.data.clips.resizing import TruncatedResize
from vod2.data.clips.samplers import TripletVideos, VideoInferenceSampler
from vod2.data.clips.train_loader import TrainingLoader
from vod2.data.clips.video_mapper import VideoDatasetMapper

__all__ = [
    "CONTEXTS",
    "ClipReader",
    "ForeignMapper",
    "TrainingLoader",
    "TripletVideos",
    "TruncatedResize",
    "VideoDatasetMapper",
    "VideoInferenceSampler",
    "build_video_test_loader",
    "build_video_train_loader",
    "check_context",
    "read_frames",
]
