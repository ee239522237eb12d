"""Time, without weights: which frames to look at, and what is remembered of them."""

from vod2.moved import moved
from vod2.temporal.memory import FrameMemory
from vod2.temporal.schedule import (
    SUPPORT_SCHEDULE_REGISTRY,
    GlobalSample,
    Keyframes,
    NoWindow,
    RollingGlobal,
    ScheduleUnion,
    SlidingWindow,
    SupportSchedule,
    build_support_schedule,
)
from vod2.temporal.training import (
    TRAINING_SCHEDULE_REGISTRY,
    KeyframeTriplet,
    LocalMemoryGlobal,
    NoSupport,
    RandomBothSides,
    RandomKeyframe,
    RandomNear,
    RandomVideo,
    TrainingSchedule,
    WithKey,
    build_training_schedule,
)

__all__ = [
    "SUPPORT_SCHEDULE_REGISTRY",
    "TRAINING_SCHEDULE_REGISTRY",
    "FrameMemory",
    "GlobalSample",
    "KeyframeTriplet",
    "Keyframes",
    "LocalMemoryGlobal",
    "NoSupport",
    "NoWindow",
    "RandomBothSides",
    "RandomKeyframe",
    "RandomNear",
    "RandomVideo",
    "RollingGlobal",
    "ScheduleUnion",
    "SlidingWindow",
    "SupportSchedule",
    "TrainingSchedule",
    "WithKey",
    "build_support_schedule",
    "build_training_schedule",
]

__getattr__ = moved(__name__, {"Union": f"{__name__}:ScheduleUnion"})
