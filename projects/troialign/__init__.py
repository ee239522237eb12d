"""Temporal RoI Align (Gong et al., AAAI 2021)."""

from vod2.projects.troialign.align import TemporalAttention, TemporalRoIAlign, most_similar_rois
from vod2.projects.troialign.config import add_troialign_config
from vod2.projects.troialign.heads import TemporalROIHeads

__all__ = ["TemporalAttention", "TemporalROIHeads", "TemporalRoIAlign", "add_troialign_config", "most_similar_rois"]
