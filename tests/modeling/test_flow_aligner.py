"""Optical flow where other methods have their own alignment."""

import pytest
import torch

from helpers.models import tiny_cfg
from reference.flow import flownet, warped
from vod2.modeling.pixel import Aligner, build_aligner

KEYS = {"MODEL.ALIGNER.NAME": "FlowNetS", "MODEL.FLOWNET.WIDTH": 0.03, "MODEL.PIXEL_STD": [57.0, 58.0, 59.0]}


def make_aligner(keys: dict | None = None) -> Aligner:
    torch.manual_seed(0)
    aligner = build_aligner(tiny_cfg(KEYS | (keys or {})), 5).double()
    torch.nn.init.normal_(aligner.flownet.flow.weight, std=0.3)
    return aligner


def random_pair() -> list[torch.Tensor]:
    """source, target, source_image, target_image of two frames of 64 x 96 pixels."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(1, 5, 4, 6)] * 2 + [(1, 3, 64, 96)] * 2
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_source_is_warped_along_the_flow_from_target_to_source(legacy):
    aligner, pair = make_aligner({"MODEL.FLOWNET.LEGACY_WARP": legacy}), random_pair()
    std = torch.tensor(KEYS["MODEL.PIXEL_STD"], dtype=torch.float64).view(3, 1, 1)
    flow, _ = flownet(aligner.flownet.state_dict(), pair[3][0] * std, pair[2][0] * std)
    assert flow.abs().max() > 0.1, "a flow of nothing proves nothing"
    expected = warped(pair[0][0], flow, legacy)
    torch.testing.assert_close(aligner(*pair)[0], expected, rtol=1e-9, atol=1e-9)


def test_a_new_one_leaves_the_source_where_it_is():
    aligner, pair = build_aligner(tiny_cfg(KEYS), 5).double(), random_pair()
    torch.testing.assert_close(aligner(*pair), pair[0], rtol=0, atol=1e-12)


def test_the_gradient_reaches_source_and_flow_network():
    aligner, pair = make_aligner(), random_pair()
    aligner(pair[0].requires_grad_(), *pair[1:]).square().sum().backward()
    assert pair[0].grad.ne(0).any()
    assert all(p.grad is not None and p.grad.ne(0).any() for p in aligner.parameters())


def test_it_asks_for_images():
    aligner, pair = make_aligner(), random_pair()
    assert aligner.needs_images
    with pytest.raises(ValueError, match="expected source_image and target_image, got None"):
        aligner(*pair[:2])
