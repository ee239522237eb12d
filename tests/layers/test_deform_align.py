"""Alignment, attention between maps and the bias of sizes against MST's equations, cell by cell.

B: pairs, C: channels, W: width, H: heads.
"""

import pytest
import torch
from torch.nn import functional as F

from helpers.proposals import random_boxes
from reference.mst import align, frame_level, size_bias
from vod2.layers import DeformAlign, GeometryBias, MapAttention

CHANNELS, WIDTH, SIZE = 6, 2, (4, 5)


def drawn(module, std: float = 0.4, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module.to(dtype)


def make_maps(count: int, seed: int = 1, dtype: torch.dtype = torch.float64, size=SIZE) -> torch.Tensor:
    return torch.randn(count, CHANNELS, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestDeformAlign:
    def test_it_has_the_number_of_parameters_of_the_paper(self):
        """1.956 M in Table IV: where the offset convolutions (27 channels each) look decides about the last digits."""
        module = DeformAlign(1024)
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
        assert counts["reduce"] == 1024 * 128 + 128
        assert counts["fuse"] == 2 * (256 * 256 * 9 + 256 + 256 * 27 * 9 + 27)
        assert counts["align"] == 128 * 128 * 9 + 128 + 256 * 27 * 9 + 27
        assert counts["refine"] == 128 * 128 * 9 + 128 + 128 * 27 * 9 + 27
        assert counts["expand"] == 128 * 1024 + 1024
        assert sum(counts.values()) == 1_956_460

    def test_a_target_that_all_pairs_share_is_reduced_once_with_the_same_result_and_gradients(self):
        module, source, target = drawn(DeformAlign(CHANNELS, WIDTH)), make_maps(3), make_maps(1, seed=2)
        reduced = []
        module.reduce.register_forward_hook(lambda layer, inputs, output: reduced.append(len(output)))
        gradients, results = [], []
        for repeat in (target.expand, lambda *shape: target.repeat(3, 1, 1, 1)):
            module.zero_grad()
            results.append(module(source, repeat(3, -1, -1, -1)))
            results[-1].square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in module.parameters()])
        assert reduced == [3, 1, 3, 3]
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_without_masks_each_deformable_layer_has_nine_numbers_of_a_cell_less(self):
        less = sum(p.numel() for p in DeformAlign(1024).parameters()) - 9 * (3 * (256 * 9 + 1) + 128 * 9 + 1)
        assert sum(p.numel() for p in DeformAlign(1024, modulated=False).parameters()) == less == 1_883_848

    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("modulated", [False, True])
    def test_it_is_equations_one_and_two(self, residual, modulated):
        module = drawn(DeformAlign(CHANNELS, WIDTH, residual=residual, modulated=modulated))
        source, target = make_maps(2), make_maps(2, seed=2)
        expected = [align(module.state_dict(), *pair, residual) for pair in zip(source, target, strict=True)]
        torch.testing.assert_close(module(source, target), torch.stack(expected), rtol=1e-10, atol=1e-10)

    def test_where_it_is_added_it_begins_as_the_identity_and_can_leave_it(self):
        module, source, target = DeformAlign(CHANNELS, WIDTH, residual=True).double(), make_maps(2), make_maps(2, 2)
        aligned = module(source, target)
        assert aligned.equal(source)
        aligned.square().sum().backward()
        assert module.expand.weight.grad.ne(0).any()

    def test_its_taps_follow_a_shift(self):
        """With the offsets (0, 1) everywhere a deformable layer is an ordinary one on the map moved by one column."""
        layer = drawn(DeformAlign(CHANNELS, WIDTH)).refine
        x = torch.randn(1, WIDTH, *SIZE, dtype=torch.float64)
        with torch.no_grad():
            layer.sampling.weight.zero_()
            layer.sampling.bias.zero_()[1:18:2] = 1.0
        moved = F.pad(x, (0, 1))[..., 1:]
        expected = F.conv2d(F.pad(moved, (1, 1, 1, 1)), layer.weight, layer.bias)
        # Only there the column left of the map is seen: it is outside of the moved one, the first of the original
        torch.testing.assert_close(layer(x, x)[..., 1:], expected[..., 1:])

    def test_gradients_agree_with_finite_differences(self):
        module = drawn(DeformAlign(CHANNELS, WIDTH))
        source, target = make_maps(1, size=(2, 3)).requires_grad_(), make_maps(1, 2, size=(2, 3)).requires_grad_()
        names, values = zip(*module.named_parameters(), strict=True)

        def run(source, target, *parameters):
            return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (source, target))

        assert torch.autograd.gradcheck(run, (source, target, *values), fast_mode=True)

    def test_no_pairs_give_no_maps_forward_and_backward(self):
        module, source = drawn(DeformAlign(CHANNELS, WIDTH)), make_maps(0).requires_grad_()
        out = module(source, make_maps(0))
        assert out.shape == (0, CHANNELS, *SIZE)
        out.sum().backward()
        assert all(p.grad is None or p.grad.eq(0).all() for p in module.parameters())

    def test_maps_that_are_not_contiguous_give_the_same(self):
        module, source, target = drawn(DeformAlign(CHANNELS, WIDTH)), make_maps(3), make_maps(1, seed=2)
        turned = source.transpose(2, 3).contiguous().transpose(2, 3)
        expected = module(source, target.repeat(3, 1, 1, 1))
        torch.testing.assert_close(module(turned, target.expand(3, -1, -1, -1)), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_changes_nothing_but_the_rounding_of_the_input(self, dtype):
        module = drawn(DeformAlign(CHANNELS, WIDTH), dtype=torch.float32)
        source, target = make_maps(1, dtype=torch.float32).to(dtype), make_maps(1, 2, torch.float32).to(dtype)
        with torch.autocast("cpu", dtype=dtype):
            half = module(source, target)
        assert half.dtype == dtype
        expected = module(source.float(), target.float())
        torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.02)

    def test_a_width_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="width of at least 1, got 0"):
            DeformAlign(CHANNELS, 0)


class TestMapAttention:
    @pytest.mark.parametrize("stride", [1, 2, 3, 9])
    @pytest.mark.parametrize("count", [1, 3])
    def test_it_is_equations_four_to_six(self, count, stride):
        module, query, maps = drawn(MapAttention(CHANNELS, 3, stride)), make_maps(1), make_maps(count, seed=2)
        expected = frame_level(module.state_dict(), query[0], list(maps), heads=3, stride=stride)
        torch.testing.assert_close((query + module(query, maps))[0], expected, rtol=1e-10, atol=1e-10)

    def test_it_begins_by_adding_nothing_and_can_leave_that(self):
        module, query = MapAttention(CHANNELS, 3).double(), make_maps(1)
        out = module(query, make_maps(2, seed=2))
        assert out.eq(0).all()
        (query + out).square().sum().backward()
        assert module.value.weight.grad.ne(0).any()

    def test_no_maps_add_nothing(self):
        module = drawn(MapAttention(CHANNELS, 3))
        assert module(make_maps(1), make_maps(0)).eq(0).all()

    def test_gradients_agree_with_finite_differences(self):
        module = drawn(MapAttention(CHANNELS, 3, 2))
        query, maps = make_maps(1, size=(2, 3)).requires_grad_(), make_maps(2, 2, size=(2, 3)).requires_grad_()
        names, values = zip(*module.named_parameters(), strict=True)

        def run(query, maps, *parameters):
            return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (query, maps))

        assert torch.autograd.gradcheck(run, (query, maps, *values), fast_mode=True)

    def test_the_matrix_of_all_pairs_is_not_kept(self):
        """256 queries and 4 x 256 keys would make 262,144 weights for each head."""
        module, saved = drawn(MapAttention(64, 4, 1), dtype=torch.float32), []
        query, maps = torch.randn(1, 64, 16, 16), torch.randn(4, 64, 16, 16)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            module(query, maps).sum().backward()
        assert max(saved) <= 4 * 64 * 256

    def test_bfloat16_autocast_stays_near_float32(self):
        module = drawn(MapAttention(CHANNELS, 3, 2), dtype=torch.float32)
        query, maps = make_maps(1, dtype=torch.float32), make_maps(2, 2, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = module(query, maps)
        torch.testing.assert_close(half.float(), module(query, maps), rtol=0.05, atol=0.03)

    @pytest.mark.parametrize(
        "arguments, message", [((4, 2), "4 heads do not divide 6"), ((3, 0), "key stride of at least 1, got 0")]
    )
    def test_values_that_make_no_sense_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            MapAttention(CHANNELS, *arguments)


class TestBiasOfSizes:
    def make(self, dim: int = 16, aspect: bool = False) -> GeometryBias:
        module = GeometryBias(3, dim, scale=10.0, wavelength=50.0, position=False, aspect=aspect).double()
        torch.manual_seed(0)
        torch.nn.init.normal_(module.projection.weight, std=0.4)
        return module

    @pytest.mark.parametrize("aspect, terms", [(False, 2), (True, 3)])
    @pytest.mark.parametrize("dim", [8, 16, 64])
    def test_it_is_equation_nine(self, dim, aspect, terms):
        module, rng = self.make(dim, aspect), torch.Generator().manual_seed(0)
        query, key = random_boxes(4, rng), random_boxes(5, rng)
        state = {f"geometry.{name}": value.detach() for name, value in module.state_dict().items()}
        expected = torch.empty(3, 4, 5, dtype=torch.float64)
        for i, box in enumerate(query.tolist()):
            for j, other in enumerate(key.tolist()):
                expected[:, i, j] = size_bias(state, box, other, 10.0, 50.0, terms)
        torch.testing.assert_close(module(query, key), expected, rtol=1e-8, atol=1e-8)

    def test_where_boxes_stand_does_not_matter(self):
        module, rng = self.make(), torch.Generator().manual_seed(0)
        query, key = random_boxes(4, rng), random_boxes(5, rng)
        moved = key + torch.rand(5, 1, generator=rng, dtype=torch.float64) * 50
        torch.testing.assert_close(module(query, moved), module(query, key), rtol=1e-6, atol=1e-8)

    def test_gradients_agree_with_finite_differences(self):
        module, rng = self.make(8, aspect=True), torch.Generator().manual_seed(0)
        query, key = random_boxes(2, rng), random_boxes(3, rng)

        def run(weight, bias):
            parameters = {"projection.weight": weight, "projection.bias": bias}
            return torch.func.functional_call(module, parameters, (query, key))

        assert torch.autograd.gradcheck(run, (module.projection.weight, module.projection.bias))

    def test_boxes_without_area_and_no_boxes_give_finite_values(self):
        module, box = self.make(aspect=True), torch.tensor([[3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
        assert module(box, box + torch.tensor([0.0, 0.0, 4.0, 4.0])).isfinite().all()
        assert module(box[:0], box).shape == (3, 0, 1) and module(box, box[:0]).shape == (3, 1, 0)

    def test_aspect_ratios_are_for_boxes_without_position(self):
        with pytest.raises(ValueError, match="aspect is for boxes without position"):
            GeometryBias(3, aspect=True)

    def test_it_is_computed_in_single_precision_under_autocast(self):
        module, rng = self.make(aspect=True).float(), torch.Generator().manual_seed(0)
        query, key = random_boxes(4, rng, torch.float32), random_boxes(5, rng, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = module(query, key)
        assert half.equal(module(query, key))
