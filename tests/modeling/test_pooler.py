"""The pooler of the heads does what the backend's does, with the project's operator."""

import pytest
import torch

from helpers.models import build_detector
from vod2.d2 import Boxes, ROIPooler
from vod2.modeling.roi_heads import FastROIPooler
from vod2.ops import ROIAlign

BOXES = torch.tensor([[3.0, 5.0, 40.0, 30.0], [0.0, 0.0, 250.0, 180.0], [60.0, 20.0, 61.0, 22.0]])


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("strides", [(16,), (4, 8, 16, 32)])
@pytest.mark.parametrize("samples", [0, 2])
def test_maps_are_pooled_as_the_backend_does_it(strides, samples, pooler_type):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 6, 192 // stride, 256 // stride, generator=generator) for stride in strides]
    options = {"output_size": 7, "scales": tuple(1 / stride for stride in strides), "sampling_ratio": samples}
    boxes = [Boxes(BOXES), Boxes(BOXES[:0])]
    found = FastROIPooler(**options, pooler_type=pooler_type)(maps, boxes)
    expected = ROIPooler(**options, pooler_type=pooler_type)(maps, boxes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("pooler_type", "aligned"), [("ROIAlign", False), ("ROIAlignV2", True)])
def test_the_heads_pool_by_the_keys_of_the_pooler(pooler_type, aligned):
    prefix = "MODEL.ROI_BOX_HEAD.POOLER"
    keys = {f"{prefix}_TYPE": pooler_type, f"{prefix}_SAMPLING_RATIO": 3, f"{prefix}_RESOLUTION": 5}
    pooler = build_detector(keys).roi_heads.box_pooler
    assert isinstance(pooler, FastROIPooler) and not pooler.state_dict()
    (layer,) = pooler.level_poolers
    assert isinstance(layer, ROIAlign)
    assert (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned) == ((5, 5), 1 / 16, 3, aligned)
