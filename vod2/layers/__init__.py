"""Tensors in, tensors out: no configuration, no registry."""

from vod2.layers.box_coding import PreciseBoxTransform
from vod2.layers.geometry import GeometryBias
from vod2.layers.relation import RelationAttention

__all__ = ["GeometryBias", "PreciseBoxTransform", "RelationAttention"]
