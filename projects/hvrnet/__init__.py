"""HVR-Net: mining inter-video proposal relations (Han et al., ECCV 2020)."""

from vod2.projects.hvrnet.aggregator import HVRAggregator
from vod2.projects.hvrnet.config import add_hvrnet_config

__all__ = ["HVRAggregator", "add_hvrnet_config"]
