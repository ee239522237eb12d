"""Flow-Guided Feature Aggregation for Video Object Detection (Zhu et al., ICCV 2017)."""

from vod2.projects.fgfa.aggregator import FGFAAggregator
from vod2.projects.fgfa.config import add_fgfa_config

__all__ = ["FGFAAggregator", "add_fgfa_config"]
