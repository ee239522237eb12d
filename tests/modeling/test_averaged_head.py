"""The box head that averages a RoI's cells before its fully connected layers."""

import pytest
import torch

from helpers.models import tiny_cfg
from vod2.d2 import ROI_BOX_HEAD_REGISTRY, ShapeSpec
from vod2.errors import UserError

SHAPE = ShapeSpec(channels=4, height=3, width=3)


def make_head(**keys):
    cfg = tiny_cfg({f"MODEL.ROI_BOX_HEAD.{key}": value for key, value in {"FC_DIM": 6, **keys}.items()})
    torch.manual_seed(0)
    return ROI_BOX_HEAD_REGISTRY.get("AveragedBoxHead")(cfg, SHAPE).double()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("count", [0, 3])
def test_the_layers_are_given_the_mean_of_each_channel(layers, count):
    head, rois = make_head(NUM_FC=layers), torch.randn(count, 4, 3, 3, dtype=torch.float64)
    expected = rois.flatten(2).sum(dim=2) / 9
    for k in range(1, layers + 1):
        layer = getattr(head, f"fc{k}")
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(head(rois), expected)
    assert head.output_shape.channels == 6


def test_where_the_cells_of_a_roi_are_does_not_matter():
    head, rois = make_head(NUM_FC=1), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(head(rois), head(rois.flip(2, 3)))


def test_convolutions_before_it_are_refused():
    with pytest.raises(UserError, match="NUM_CONV is 2, set it to 0"):
        make_head(NUM_CONV=2)
