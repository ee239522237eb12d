"""Multi-level Aggregation via Memory Bank (Sun et al., AAAI 2021)."""

from vod2.projects.mamba.aggregator import MAMBAAggregator
from vod2.projects.mamba.bank import BankRules, FeatureBank
from vod2.projects.mamba.config import add_mamba_config
from vod2.projects.mamba.pixels import MAMBAPixels

__all__ = ["BankRules", "FeatureBank", "MAMBAAggregator", "MAMBAPixels", "add_mamba_config"]
