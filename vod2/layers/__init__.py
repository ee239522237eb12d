"""Tensors in, tensors out: no configuration, no registry."""

from vod2.layers.box_coding import PreciseBoxTransform, clip_boxes, half_open, inclusive, poolable
from vod2.layers.deform_align import DeformAlign
from vod2.layers.fixed_size import first_rows
from vod2.layers.flow_warp import FlowNetS, FlowOutput, warp
from vod2.layers.frame_pairs import remembered_attention
from vod2.layers.geometry import GeometryBias
from vod2.layers.ignore_regions import covered
from vod2.layers.initialisation import init_he, init_normal, init_xavier, zero_bias
from vod2.layers.map_attention import MapAttention
from vod2.layers.module_list import ModuleList
from vod2.layers.patch_attention import PatchAttention, PatchImportance
from vod2.layers.pixel_attention import PixelAttention
from vod2.layers.relation import RelationAttention, RelationModules, stacked_relations
from vod2.layers.st_sampling import LearnedSampling, MatchTrans, NonLocalAlign
from vod2.moved import moved

__all__ = [
    "DeformAlign",
    "FlowNetS",
    "FlowOutput",
    "GeometryBias",
    "LearnedSampling",
    "MapAttention",
    "MatchTrans",
    "ModuleList",
    "NonLocalAlign",
    "PatchAttention",
    "PatchImportance",
    "PixelAttention",
    "PreciseBoxTransform",
    "RelationAttention",
    "RelationModules",
    "clip_boxes",
    "covered",
    "first_rows",
    "half_open",
    "inclusive",
    "init_he",
    "init_normal",
    "init_xavier",
    "poolable",
    "remembered_attention",
    "stacked_relations",
    "warp",
    "zero_bias",
]

__getattr__ = moved(__name__, {"nonlocal_block": f"{__name__}.pixel_attention"})
