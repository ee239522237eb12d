"""Context and Structure Mining Network (Han et al., IJCV 2021)."""

from vod2.projects.csmn.config import add_csmn_config
from vod2.projects.csmn.spfa import SPFAAggregator
from vod2.projects.csmn.stcie import StCIE

__all__ = ["SPFAAggregator", "StCIE", "add_csmn_config"]
