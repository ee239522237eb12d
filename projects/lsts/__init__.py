"""Learning Where to Focus for Efficient Video Object Detection (Jiang et al., ECCV 2020)."""

from vod2.projects.lsts.aggregator import LSTSAggregator
from vod2.projects.lsts.config import add_lsts_config

__all__ = ["LSTSAggregator", "add_lsts_config"]
