"""Relation Distillation Networks (Deng et al., ICCV 2019)."""

from vod2.projects.rdn.aggregator import RDNAggregator
from vod2.projects.rdn.config import add_rdn_config

__all__ = ["RDNAggregator", "add_rdn_config"]
