"""Reading weights, with a clear word on what does not fit."""

from vod2.checkpoint.io import load_weights, require_weights

__all__ = ["load_weights", "require_weights"]
