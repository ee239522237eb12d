"""Bringing a map to another frame by comparing cells: learned locations, a window, all cells."""

import pytest
import torch
from torch.nn import functional as F

from vod2.layers import LearnedSampling, MatchTrans, NonLocalAlign
from vod2.ops import st_sampling_reference

MAKERS = {
    "learned": lambda: LearnedSampling(6, 4, 5),
    "fixed": lambda: LearnedSampling(6, 4, 9, "uniform", learned=False),
    "window": lambda: MatchTrans(6, 4, radius=1),
    "all": lambda: NonLocalAlign(6, 4),
}


def make_maps(B=2, C=6, H=5, W=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, B, C, H, W, generator=generator, dtype=dtype).unbind()


@pytest.fixture(params=MAKERS)
def layer(request):
    torch.manual_seed(0)
    return MAKERS[request.param]()


def test_the_gradient_reaches_every_parameter_and_both_maps(layer):
    source, target = (tensor.requires_grad_() for tensor in make_maps())
    out = layer(source, target)
    assert out.shape == source.shape
    (out * torch.randn_like(out)).sum().backward()
    assert source.grad.any() and target.grad.any()
    for name, parameter in layer.named_parameters():
        # A constant added to all scores of a cell changes no softmax over all cells
        if not (isinstance(layer, NonLocalAlign) and name == "source_embedding.bias"):
            assert parameter.grad.any(), name


def test_one_map_of_a_batch_does_not_look_at_another(layer):
    source, target = make_maps()
    torch.testing.assert_close(layer(source, target)[1:], layer(source[1:], target[1:]))


def test_an_empty_batch_works_forward_and_backward(layer):
    out = layer(*make_maps(B=0))
    out.sum().backward()
    assert out.shape == (0, 6, 5, 4)


def test_float64_stays_float64(layer):
    assert layer.double()(*make_maps(dtype=torch.float64)).dtype == torch.float64


def test_bfloat16_autocast_is_close_to_float32_and_keeps_the_dtype_of_the_source(layer):
    source, target = make_maps()
    exact = layer(source, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(source, target)
    assert out.dtype == source.dtype
    torch.testing.assert_close(out, exact, atol=0.05, rtol=0.05)


def test_learned_sampling_is_the_op_on_two_embeddings():
    torch.manual_seed(0)
    layer = LearnedSampling(6, 4, 5, normaliser="softmax").double()
    source, target = make_maps(dtype=torch.float64)

    def embedding(convolution, maps):
        return torch.einsum("ec,bchw->behw", convolution.weight[:, :, 0, 0], maps) + convolution.bias[:, None, None]

    key, query = embedding(layer.source_embedding, source), embedding(layer.target_embedding, target)
    torch.testing.assert_close(layer(source, target), st_sampling_reference(source, key, query, layer.locations))


def test_attention_over_all_cells_is_a_softmax_over_their_dot_products():
    torch.manual_seed(0)
    layer = NonLocalAlign(6, 4).double()  # 6 channels are one head and a half
    source, target = make_maps(dtype=torch.float64)
    key, query = layer.source_embedding(source).flatten(2), layer.target_embedding(target).flatten(2)
    weights = torch.einsum("bep,beq->bpq", query, key).softmax(dim=-1)
    expected = torch.einsum("bpq,bcq->bcp", weights, source.flatten(2)).unflatten(2, (5, 4))
    torch.testing.assert_close(layer(source, target), expected)


def test_uniform_locations_are_the_window_row_by_row():
    x_and_y = [[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]
    assert LearnedSampling(2, 2, 9, "uniform").locations.tolist() == x_and_y
    window = MatchTrans(2, 2).locations
    assert window.shape == (81, 2) and window.min() == -4 and window.max() == 4


def test_gaussian_locations_have_the_standard_deviation_that_they_are_given():
    wide = LearnedSampling(2, 2, 4, init_std=3.0, generator=torch.Generator().manual_seed(3))
    usual = LearnedSampling(2, 2, 4, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(wide.locations, 3 * usual.locations)


def test_gaussian_locations_follow_the_generator_and_have_variance_one():
    first, second = (LearnedSampling(2, 2, 4000, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.locations, second.locations)
    assert first.locations.mean().abs() < 0.05 and abs(first.locations.var() - 1) < 0.05


def test_only_learned_locations_are_a_parameter_and_all_are_saved():
    learned, fixed = MAKERS["learned"](), MAKERS["fixed"]()
    assert "locations" in dict(learned.named_parameters()) and learned.no_weight_decay == ("locations",)
    assert "locations" not in dict(fixed.named_parameters()) and not fixed.lr_multipliers
    assert "locations" in learned.state_dict() and "locations" in fixed.state_dict()


def test_descent_moves_a_location_to_where_the_target_has_come_from():
    """A smooth pattern that moved by 1.6 cells to the left: the one location finds it."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")

    def pattern(shift):
        return torch.stack([(x + shift).mul(0.5).sin(), y.mul(0.5).cos()])[None]

    layer = LearnedSampling(2, 2, 1)
    layer.locations.data.zero_()
    optimizer = torch.optim.SGD([layer.locations], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        difference = layer(pattern(0.0), pattern(1.6)) - pattern(1.6)
        difference[..., 3:-3, 3:-3].square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.locations.data, torch.tensor([[1.6, 0.0]]), atol=0.1, rtol=0)


def train_on_shifted_noise(motion: tuple[float, float], init_std: float, steps: int = 150) -> torch.Tensor:
    """Locations (20, 2) after training that a map (8, 12, 12) becomes its copy, shifted by normal displacements.

    The displacements have the standard deviation `motion`, in cells; embeddings and locations learn from the squared
    difference alone.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = LearnedSampling(8, 8, 20, init_std=init_std, generator=generator)
    embeddings = [*layer.source_embedding.parameters(), *layer.target_embedding.parameters()]
    optimizer = torch.optim.Adam([{"params": [layer.locations], "lr": 0.1}, {"params": embeddings}], lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    for _ in range(steps):
        noise = 3 * F.avg_pool2d(torch.randn(8, 8, 34, 34, generator=generator), kernel_size=3, stride=1)  # smooth
        displacements = torch.randn(8, 2, generator=generator) * torch.tensor(motion)
        source, target = (
            F.grid_sample(noise, (2 * (torch.stack([x, y], -1) + 10 + shift) + 1) / 32 - 1, align_corners=False)
            for shift in (torch.zeros(1, 1, 1, 2).expand(8, 1, 1, 2), displacements[:, None, None])
        )
        optimizer.zero_grad()
        (layer(source, target) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return layer.locations.detach()


def test_locations_that_begin_narrow_spread_as_far_as_things_move():
    horizontal, vertical = train_on_shifted_noise(motion=(2.5, 0.5), init_std=0.3).std(dim=0).tolist()
    assert 2.0 < horizontal < 3.0
    assert vertical < 0.7 * horizontal


def test_locations_stay_near_where_things_hardly_move():
    assert (train_on_shifted_noise(motion=(0.5, 0.5), init_std=0.3).std(dim=0) < 1.2).all()


def test_both_embeddings_begin_alike_and_are_parameters_of_their_own(layer):
    torch.testing.assert_close(layer.source_embedding.weight, layer.target_embedding.weight, rtol=0, atol=0)
    assert layer.source_embedding.weight is not layer.target_embedding.weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "locations is 0"),
        ({"num": 40, "init": "uniform"}, "40 uniform locations"),
        ({"num": 16, "init": "uniform"}, "16 uniform locations"),
        ({"init": "grid"}, "init is 'grid'"),
        ({"normaliser": "max"}, "normaliser is 'max'"),
        ({"lr_multiplier": -1.0}, "lr_multiplier is -1.0"),
        ({"init_std": -1.0}, "init_std is -1.0"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnedSampling(4, 2, **arguments)
