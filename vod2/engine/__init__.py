"""Training, evaluation and prediction."""

from vod2.engine.predictor import VideoPredictor
from vod2.engine.setup import load_config, setup
from vod2.engine.trainer import VideoTrainer

__all__ = ["VideoPredictor", "VideoTrainer", "load_config", "setup"]
