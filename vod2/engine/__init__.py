"""Training, evaluation and prediction."""

from vod2.engine.accumulation import AccumulatingTrainer, micro_batches, scaled_to_devices
from vod2.engine.allocator import keep_freed_memory
from vod2.engine.fuse import convert_for_inference, inference_copy
from vod2.engine.predictor import VideoPredictor
from vod2.engine.preflight import check_datasets, check_evaluation, check_training
from vod2.engine.setup import load_config, setup
from vod2.engine.streams import DetectedFrame, StreamErrors, VideoStream
from vod2.engine.trainer import VideoTrainer, inference_folder
from vod2.moved import moved

__all__ = [
    "AccumulatingTrainer",
    "DetectedFrame",
    "StreamErrors",
    "VideoPredictor",
    "VideoStream",
    "VideoTrainer",
    "check_datasets",
    "check_evaluation",
    "check_training",
    "convert_for_inference",
    "inference_copy",
    "inference_folder",
    "keep_freed_memory",
    "load_config",
    "micro_batches",
    "scaled_to_devices",
    "setup",
]

__getattr__ = moved(__name__, {"outputs": "vod2.evaluation.detection_files"})
