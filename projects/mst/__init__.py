"""Multi-level Spatial-temporal Feature Aggregation (Xu et al., IEEE TCSVT 2022)."""

from vod2.projects.mst.aggregator import MSTAggregator
from vod2.projects.mst.config import add_mst_config
from vod2.projects.mst.frames import MSTFrames

__all__ = ["MSTAggregator", "MSTFrames", "add_mst_config"]
