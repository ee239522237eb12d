"""What layers make of remembered features: computed once, made again where it no longer holds, gone with the frame."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vod2.structures import (
    FeatureRows,
    ProposalSet,
    as_tensor,
    cat_rows,
    remembered_together,
    through,
    with_rows,
)

DIM = 8


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(DIM, 4, dtype=torch.float64).eval()


@pytest.fixture
def computed(layer) -> list[int]:
    """How many rows each call of the layer had."""
    counts: list[int] = []
    layer.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    return counts


@pytest.fixture
def values(layer) -> list[weakref.ref]:
    """What each call of the layer has returned, as long as it is kept."""
    results: list[weakref.ref] = []
    layer.register_forward_hook(lambda module, inputs, output: results.append(weakref.ref(output)))
    return results


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def make_features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_proposals(count: int, seed: int = 0) -> ProposalSet:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(count, 4)
    return ProposalSet.of_frame(boxes, make_features(count, seed), torch.arange(count, 0, -1.0), (32, 32))


def test_the_rows_of_a_frame_go_through_a_layer_once(layer, computed):
    first, second, third = (make_proposals(5, seed).remembered() for seed in range(3))
    for window in ([first, second], [first, second], [second, third]):
        joined = ProposalSet.cat(window)
        torch.testing.assert_close(through(joined.rows, layer).tensor, layer(joined.features), rtol=1e-12, atol=1e-12)
    assert computed == [5, 5, 10, 10, 5, 10]  # 10: the expected values


def test_proposals_that_no_memory_holds_are_plain_tensors(layer, computed):
    joined = ProposalSet.cat([make_proposals(2), make_proposals(3)])
    assert joined.rows is joined.features
    through(joined.rows, layer), through(joined.rows, layer)
    assert computed == [5, 5]


@pytest.mark.parametrize(
    "rows",
    [slice(2), slice(1, 7), slice(None, None, 2), torch.tensor([6, 0, 6]), torch.arange(8) % 3 == 0, slice(0)],
    ids=["first", "middle", "strided", "index", "mask", "none"],
)
def test_selected_rows_are_those_of_the_tensor(layer, rows):
    joined = ProposalSet.cat([make_proposals(5).remembered(), make_proposals(3, 1), make_proposals(0).remembered()])
    selected = joined[rows]
    assert len(selected.rows) == len(selected)
    torch.testing.assert_close(as_tensor(selected.rows), selected.features)
    torch.testing.assert_close(
        as_tensor(through(selected.rows, layer)), layer(selected.features), rtol=1e-12, atol=1e-12
    )
    again = ProposalSet.cat([selected, joined])
    torch.testing.assert_close(as_tensor(through(again.rows, layer)), layer(again.features), rtol=1e-12, atol=1e-12)


def test_each_number_of_rows_is_computed_once_so_that_the_order_of_requests_does_not_change_the_rounding(
    layer, computed
):
    proposals = make_proposals(6).remembered()
    for count in (2, 6, 3, 6, 2):
        expected = F.linear(proposals.features[:count], layer.weight, layer.bias)
        torch.testing.assert_close(as_tensor(through(proposals[:count].rows, layer)), expected)
    assert computed == [2, 6, 3]


def test_what_a_layer_makes_may_go_through_another(layer, computed):
    rows, second = FeatureRows.remembered(make_features(3)), nn.Linear(4, 2, dtype=torch.float64).eval()
    for _ in range(2):
        result = through(through(rows, layer, before=F.relu), second)
        torch.testing.assert_close(result.tensor, second(F.linear(rows.tensor.relu(), layer.weight, layer.bias)))
    assert computed == [3]


def test_the_activation_before_a_layer_makes_another_value(layer):
    rows = FeatureRows.remembered(make_features(3))
    plain, activated = through(rows, layer).tensor, through(rows, layer, before=F.relu).tensor
    torch.testing.assert_close(activated, layer(rows.tensor.relu()))
    torch.testing.assert_close(plain, layer(rows.tensor))


def replaced_data(layer):
    layer.weight.data = layer.weight.data * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict({"weight": torch.ones(4, DIM), "bias": torch.ones(4)}),
        lambda layer: torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5).step(),
        lambda layer: (replaced_data(layer), replaced_data(layer)),
        lambda layer: setattr(layer, "bias", nn.Parameter(layer.bias + 1)),
    ],
    ids=["written", "loaded", "updated", "replaced", "other parameter"],
)
def test_changed_weights_make_it_again(layer, change):
    rows = FeatureRows.remembered(make_features(3))
    through(rows, layer)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    change(layer)
    torch.testing.assert_close(through(rows, layer).tensor, layer(rows.tensor))


def test_another_dtype_makes_it_again(layer):
    rows = FeatureRows.remembered(make_features(3).float())
    assert through(rows, layer.float()).tensor.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert through(rows, layer).tensor.dtype == torch.bfloat16
    assert through(rows, layer).tensor.dtype == torch.float32


def test_training_drops_it(layer, computed, values):
    rows = FeatureRows.remembered(make_features(3))
    through(rows, layer)
    assert values[0]() is not None
    layer.train()
    assert isinstance(through(rows, layer), torch.Tensor)
    gc.collect()
    assert values[0]() is None
    layer.eval()
    through(rows, layer), through(rows, layer)
    assert computed == [3, 3, 3]


def test_gradients_flow_where_they_are_recorded(layer):
    rows = FeatureRows.remembered(make_features(3))
    through(rows, layer)
    with torch.enable_grad():
        as_tensor(through(rows, layer)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_it_ends_with_the_frame(layer, values):
    proposals, other = make_proposals(3).remembered(), make_proposals(3, 1).remembered()
    through(proposals.rows, layer), through(other.rows, layer)
    del proposals
    gc.collect()
    assert values[0]() is None and values[1]() is not None


def test_it_ends_with_the_layer():
    rows, results = FeatureRows.remembered(make_features(3)), []
    lone = nn.Linear(DIM, 2, dtype=torch.float64).eval()
    lone.register_forward_hook(lambda module, inputs, output: results.append(weakref.ref(output)))
    through(rows, lone)
    assert results[0]() is not None
    del lone
    gc.collect()
    assert results[0]() is None


def test_other_features_have_other_values(layer):
    proposals = make_proposals(3).remembered()
    through(proposals.rows, layer)
    changed = replace(proposals, features=proposals.features + 1)
    torch.testing.assert_close(as_tensor(through(changed.rows, layer)), layer(changed.features))


def test_a_copy_in_depth_computes_its_own(layer, computed):
    rows = FeatureRows.remembered(make_features(3))
    through(rows, layer)
    through(copy.deepcopy(rows), layer)
    assert computed == [3, 3]


def test_replaced_rows_are_computed_and_the_others_are_not(layer, computed):
    rows, values, index = FeatureRows.remembered(make_features(5)), make_features(2, 1), torch.tensor([3, 0])
    through(rows, layer)
    changed = with_rows(rows, index, values)
    expected = with_rows(rows.tensor, index, values)
    torch.testing.assert_close(changed.tensor, expected)
    torch.testing.assert_close(through(changed, layer).tensor, F.linear(expected, layer.weight, layer.bias))
    assert computed == [5, 2]


def test_joined_tensors_are_a_tensor():
    joined = cat_rows([make_features(2), make_features(1, 1)])
    assert isinstance(joined, torch.Tensor) and len(joined) == 3


class TestRememberedTogether:
    """What a layer makes of several frames side by side."""

    def setup_method(self):
        generator = torch.Generator().manual_seed(0)
        self.frames = [FeatureRows.remembered(torch.rand(3, 4, generator=generator)) for _ in range(3)]
        self.layer, self.calls = nn.Linear(4, 4).eval(), 0

    def made(self, rows):
        def work():
            self.calls += 1
            x = self.layer(as_tensor(rows))
            return x.flip(0)

        return as_tensor(remembered_together(rows, self.layer, work))

    def test_it_is_computed_twice_and_then_remembered(self):
        rows = FeatureRows.cat(self.frames)
        expected = self.layer(rows.tensor).flip(0)
        for calls in (1, 2, 2, 2):
            assert torch.equal(self.made(rows), expected) and self.calls == calls

    def test_what_layers_make_of_it_is_remembered_too(self):
        rows, other = FeatureRows.cat(self.frames), nn.Linear(4, 2).eval()
        kept = [through(remembered_together(rows, self.layer, lambda: rows.tensor), other) for _ in range(3)]
        assert isinstance(kept[0], torch.Tensor)  # the frames may never come together again
        assert as_tensor(kept[1]).data_ptr() == as_tensor(kept[2]).data_ptr()

    def test_other_frames_or_another_order_begin_anew(self):
        first, second, third = self.frames
        for frames in ((first, second), (first, third), (first, second), (second, first), (first, second)):
            rows = FeatureRows.cat(frames)
            assert torch.equal(self.made(rows), self.layer(rows.tensor).flip(0))
        assert self.calls == 5

    def test_a_layer_that_has_learned_computes_anew(self):
        rows = FeatureRows.cat(self.frames)
        for _ in range(3):
            self.made(rows)
        self.layer.weight.add_(1)
        assert torch.equal(self.made(rows), self.layer(rows.tensor).flip(0)) and self.calls == 3

    def test_nothing_is_kept_where_gradients_flow_or_of_a_selection(self):
        rows = FeatureRows.cat(self.frames)
        with torch.enable_grad():
            for _ in range(3):
                self.made(rows)
        assert self.calls == 3
        for _ in range(3):
            self.made(rows[torch.tensor([5, 0])])
            self.made(rows.tensor)
        assert self.calls == 9

    def test_it_goes_with_its_first_frame(self):
        rows = FeatureRows.cat(self.frames)
        for _ in range(2):
            self.made(rows)
        source = rows.first_rows()[0].source
        kept = weakref.ref(source.together[self.layer].value)
        gc.disable()
        try:
            del rows, source
            self.frames.clear()
            assert kept() is None
        finally:
            gc.enable()
