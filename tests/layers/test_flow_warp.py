"""The flow network and warping, by hand and against slow references."""

import pytest
import torch

from helpers.parity import public_shapes
from helpers.public_flow import public_flownet
from reference.flow import flownet, warped
from vod2.layers import FlowNetS, warp


def make_net(**arguments) -> FlowNetS:
    """A narrow network whose flow is some cells long."""
    torch.manual_seed(0)
    net = FlowNetS(width=0.03, **arguments).double()
    for parameter in (*net.flow.parameters(), *(net.scale.parameters() if net.scale is not None else ())):
        torch.nn.init.normal_(parameter, std=0.4)
    return net


def images(count: int, height: int = 70, width: int = 90) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 3, height, width, generator=rng, dtype=torch.float64) - 120


def random_map(height: int, width: int, channels: int = 3, count: int = 1, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, height, width, generator=rng, dtype=torch.float64)


class TestWarp:
    def test_a_flow_of_zero_is_the_identity(self):
        features = random_map(4, 6)
        torch.testing.assert_close(warp(features, torch.zeros(1, 2, 4, 6).double()), features, rtol=0, atol=1e-12)

    def test_whole_cells_by_hand(self):
        """Each cell takes what lies one to the right and one above; the edge goes on."""
        features = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
        flow = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
        expected = torch.tensor([[[[2.0, 3.0, 3.0], [2.0, 3.0, 3.0]]]])
        torch.testing.assert_close(warp(features, flow), expected)

    def test_half_a_cell_is_the_mean_of_two(self):
        flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        actual = warp(torch.tensor([[[[1.0, 2.0, 4.0]]]]), flow)
        torch.testing.assert_close(actual, torch.tensor([[[[1.5, 3.0, 4.0]]]]))

    def test_the_public_convention_shrinks_the_map_where_the_flow_is_zero(self):
        """Of three cells it takes those at 3 p / 2 - 1 / 2 for p = 0, 1, 2, that is -1 / 2, 1 and 5 / 2."""
        features = torch.tensor([[[[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]]])
        actual = warp(features * torch.tensor([1.0, 3.0]).view(2, 1), torch.zeros(1, 2, 2, 3), legacy=True)
        torch.testing.assert_close(actual, torch.tensor([[[[1.0, 2.0, 4.0], [3.0, 6.0, 12.0]]]]))
        actual = warp(torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), legacy=True)
        torch.testing.assert_close(actual[0, 0, 0], torch.tensor([0.0, 5 / 6, 13 / 6, 3.0]))

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("height, width", [(4, 6), (2, 3), (5, 2)])
    def test_it_is_the_loop_over_cells(self, height, width, legacy):
        features, flow = random_map(height, width, count=2), 2 * random_map(height, width, 2, count=2, seed=1)
        expected = torch.stack([warped(*pair, legacy=legacy) for pair in zip(features, flow, strict=True)])
        torch.testing.assert_close(warp(features, flow, legacy=legacy), expected, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_map_of_one_cell_stays_as_it_is(self, legacy):
        features = random_map(1, 1)
        torch.testing.assert_close(warp(features, torch.full((1, 2, 1, 1), 0.3).double(), legacy=legacy), features)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_the_gradient_agrees_with_finite_differences(self, legacy):
        features, flow = random_map(3, 4).requires_grad_(), (0.6 * random_map(3, 4, 2, seed=3)).requires_grad_()
        assert torch.autograd.gradcheck(lambda *pair: warp(*pair, legacy=legacy), (features, flow))

    def test_no_pairs_work_forward_and_backward(self):
        features = torch.zeros(0, 3, 4, 6, requires_grad=True)
        value = warp(features, torch.zeros(0, 2, 4, 6))
        value.sum().backward()
        assert value.shape == (0, 3, 4, 6) and features.grad.shape == value.shape

    def test_maps_that_are_not_contiguous_work(self):
        features, flow = random_map(6, 4).transpose(2, 3), random_map(6, 4, 2, seed=1).transpose(2, 3)
        torch.testing.assert_close(warp(features, flow), warp(features.contiguous(), flow.contiguous()))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        features, flow = random_map(4, 6).to(dtype), random_map(4, 6, 2, seed=1).to(dtype)
        actual = warp(features, flow)
        assert actual.dtype == dtype and actual.equal(warp(features.float(), flow.float()).to(dtype))

    def test_a_flow_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"expected a flow of the shape \(1, 2, 4, 6\), got \(1, 2, 4, 5\)"):
            warp(random_map(4, 6), torch.zeros(1, 2, 4, 5))


class TestFlowNetS:
    def test_the_public_form_has_its_number_of_parameters(self):
        with torch.device("meta"):
            assert sum(p.numel() for p in FlowNetS().parameters()) == 38_676_514
            assert sum(p.numel() for p in FlowNetS(scale_channels=1024).parameters()) == 38_676_514 + 194 * 1024

    @pytest.mark.parametrize("name, scale_channels", [("fgfa", 0), ("dff", 1024)])
    def test_every_public_weight_has_its_place_and_shape(self, name, scale_channels):
        public = public_flownet(public_shapes(name))
        with torch.device("meta"):
            net = FlowNetS(scale_channels=scale_channels)
        assert public == {key: tuple(value.shape) for key, value in net.state_dict().items()}

    @pytest.mark.parametrize("scale_channels", [0, 5])
    @pytest.mark.parametrize("height, width", [(64, 96), (70, 90), (33, 47)])
    def test_it_is_the_network_layer_by_layer(self, height, width, scale_channels):
        """Odd sizes, too: the expanding half is cut to the contracting one."""
        net, pair = make_net(scale_channels=scale_channels), images(2, height, width)
        actual = net(*net.prepare(pair).split(1))
        flow, scale = flownet(net.state_dict(), *pair)
        assert flow.shape == (2, -(-height // 16), -(-width // 16))
        torch.testing.assert_close(actual.flow[0], flow, rtol=1e-9, atol=1e-9)
        if scale_channels:
            torch.testing.assert_close(actual.scale[0], scale, rtol=1e-9, atol=1e-9)
        else:
            assert actual.scale is None and scale is None

    def test_the_normalisation_of_the_images_does_not_matter(self):
        std = (57.375, 57.12, 58.395)
        divided = images(2) / torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
        actual = make_net(pixel_std=std).prepare(divided)
        torch.testing.assert_close(actual, make_net().prepare(images(2)), rtol=1e-12, atol=1e-12)

    def test_the_first_image_is_the_one_whose_cells_are_looked_for(self):
        net = make_net()
        first, second = net.prepare(images(2)).split(1)
        assert not torch.allclose(net(first, second).flow, net(second, first).flow)

    def test_a_new_one_moves_and_scales_nothing(self):
        net = FlowNetS(width=0.03, scale_channels=4)
        flow, scale = net(*net.prepare(images(2).float()).split(1))
        assert flow.eq(0).all() and scale.eq(1).all()

    def test_the_gradient_reaches_every_parameter(self):
        net = make_net(scale_channels=4)
        flow, scale = net(*net.prepare(images(2)).split(1))
        (flow.square().sum() + scale.square().sum()).backward()
        assert all(p.grad is not None and p.grad.ne(0).any() for p in net.parameters())

    def test_a_new_one_learns(self):
        """Its first step changes the last layer, which then lets the gradient through to the others."""
        net, pair = FlowNetS(width=0.03), images(2).float()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            (net(*net.prepare(pair).split(1)).flow - 1).square().mean().backward()
            optimizer.step()
        assert all(p.grad.ne(0).any() for p in net.parameters())

    def test_a_width_that_makes_no_sense_is_refused(self):
        with pytest.raises(ValueError, match="positive width, got 0"):
            FlowNetS(width=0)
