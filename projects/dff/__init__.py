"""Deep Feature Flow for Video Recognition (Zhu et al., CVPR 2017)."""

from vod2.projects.dff.aggregator import DFFAggregator
from vod2.projects.dff.config import add_dff_config

__all__ = ["DFFAggregator", "add_dff_config"]
