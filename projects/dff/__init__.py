"""Deep Feature Flow for Video Recognition (Zhu et al., CVPR 2017)."""

from vod2.projects.dff.aggregator import DFFAggregator

__all__ = ["DFFAggregator"]
