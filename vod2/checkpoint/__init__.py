"""Reading weights, with a clear word on what does not fit, and converting those of other code."""

from vod2.checkpoint.convert import Conversion, convert, default_config
from vod2.checkpoint.files import DamagedError
from vod2.checkpoint.io import (
    existing_weights,
    load_flow_weights,
    load_initial_weights,
    load_weights,
    read_tensors,
    require_weights,
)
from vod2.checkpoint.report import LoadReport, compare
from vod2.checkpoint.sources import SOURCES, Target
from vod2.checkpoint.training import TrainingCheckpointer

__all__ = [
    "SOURCES",
    "Conversion",
    "DamagedError",
    "LoadReport",
    "Target",
    "TrainingCheckpointer",
    "compare",
    "convert",
    "default_config",
    "existing_weights",
    "load_flow_weights",
    "load_initial_weights",
    "load_weights",
    "read_tensors",
    "require_weights",
]
