"""Reading weights, with a clear word on what does not fit."""

from vod2.checkpoint.io import load_initial_weights, load_weights, read_tensors, require_weights
from vod2.checkpoint.report import LoadReport

__all__ = ["LoadReport", "load_initial_weights", "load_weights", "read_tensors", "require_weights"]
