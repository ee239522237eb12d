"""Sequence Level Semantics Aggregation (Wu et al., ICCV 2019)."""

from vod2.projects.selsa.aggregator import SELSAAggregator
from vod2.projects.selsa.config import add_selsa_config

__all__ = ["SELSAAggregator", "add_selsa_config"]
