"""Training loops, their hooks, and the defaults that tools stand on."""

from vod2._d2lite.engine import hooks
from vod2._d2lite.engine.defaults import (
    DefaultPredictor,
    DefaultTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from vod2._d2lite.engine.hooks import *  # noqa: F403
from vod2._d2lite.engine.launch import launch
from vod2._d2lite.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = [
    "AMPTrainer",
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "hooks",
    "launch",
    *hooks.__all__,
]
