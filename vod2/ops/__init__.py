"""Operators of the project: each has a Python reference and, where the extension was built, compiled kernels.

`compiled_device_types` says for which devices there are kernels; the functions here work without any.
"""

from vod2.ops.deform_conv import deform_conv2d
from vod2.ops.library import compiled_device_types
from vod2.ops.portable import is_portable, portable
from vod2.ops.relation_geometry_bias import relation_geometry_bias, relation_geometry_bias_reference
from vod2.ops.roi_align import ROIAlign, roi_align
from vod2.ops.st_sampling import st_sampling, st_sampling_reference

__all__ = [
    "ROIAlign",
    "compiled_device_types",
    "deform_conv2d",
    "is_portable",
    "portable",
    "relation_geometry_bias",
    "relation_geometry_bias_reference",
    "roi_align",
    "st_sampling",
    "st_sampling_reference",
]
