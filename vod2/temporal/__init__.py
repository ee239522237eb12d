"""Time, without weights: which frames to look at, and what is remembered of them."""

from vod2.temporal.memory import FrameMemory
from vod2.temporal.schedule import (
    SUPPORT_SCHEDULE_REGISTRY,
    TRAINING_SCHEDULE_REGISTRY,
    GlobalSample,
    Keyframes,
    NoSupport,
    NoWindow,
    RandomNear,
    RandomVideo,
    SlidingWindow,
    SupportSchedule,
    TrainingSchedule,
    Union,
    build_support_schedule,
    build_training_schedule,
)

__all__ = [
    "SUPPORT_SCHEDULE_REGISTRY",
    "TRAINING_SCHEDULE_REGISTRY",
    "FrameMemory",
    "GlobalSample",
    "Keyframes",
    "NoSupport",
    "NoWindow",
    "RandomNear",
    "RandomVideo",
    "SlidingWindow",
    "SupportSchedule",
    "TrainingSchedule",
    "Union",
    "build_support_schedule",
    "build_training_schedule",
]
