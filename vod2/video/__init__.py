"""Video files, folders of images and cameras: reading and writing. It knows neither Detectron2 nor datasets."""

from vod2.video.browser import BrowserVideo, EmbeddedVideo
from vod2.video.camera import Camera
from vod2.video.decoding import Gap, VideoStatus
from vod2.video.keyframe_copies import is_slow_to_seek, quick_to_read, write_keyframe_copy
from vod2.video.read_ahead import read_ahead
from vod2.video.reader import VideoReader, images_in, natural_key, video_status
from vod2.video.sources import MAX_PIXELS
from vod2.video.untrusted import UntrustedVideo, VideoLimits, without_path
from vod2.video.writer import VideoWriter

__all__ = [
    "MAX_PIXELS",
    "BrowserVideo",
    "Camera",
    "EmbeddedVideo",
    "Gap",
    "UntrustedVideo",
    "VideoLimits",
    "VideoReader",
    "VideoStatus",
    "VideoWriter",
    "images_in",
    "is_slow_to_seek",
    "natural_key",
    "quick_to_read",
    "read_ahead",
    "video_status",
    "write_keyframe_copy",
    "without_path",
]
