"""Memory Enhanced Global-Local Aggregation (Chen et al., CVPR 2020)."""

from vod2.projects.mega.aggregator import MEGAAggregator
from vod2.projects.mega.config import add_mega_config

__all__ = ["MEGAAggregator", "add_mega_config"]
