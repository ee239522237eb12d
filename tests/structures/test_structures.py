"""The plain data: what it refuses, and that rows keep together."""

import dataclasses

import pytest
import torch

from vod2.d2 import Boxes, Instances
from vod2.structures import Frame, PreciseBoxes, ProposalSet, Role, Support, TemporalContext

SIZE = (32, 48)


def make_set(count: int, first: int = 0, dim: int = 2) -> ProposalSet:
    """`count` proposals whose features, boxes and scores all tell their number, which begins at `first`."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    boxes = torch.stack([numbers, numbers, numbers + 4, numbers + 8], dim=1)
    return ProposalSet.of_frame(boxes, numbers[:, None].repeat(1, dim), -numbers, SIZE)


class TestProposalSet:
    def test_joining_numbers_the_frames_anew(self):
        joined = ProposalSet.cat([ProposalSet.cat([make_set(1), make_set(2, 10)]), make_set(1, 20)])
        assert joined.frame.tolist() == [0, 1, 1, 2]
        assert joined.features[:, 0].tolist() == [0, 10, 11, 20]
        assert joined.image_sizes == (SIZE,) * 3

    def test_a_frame_without_proposals_keeps_its_number(self):
        joined = ProposalSet.cat([make_set(1), make_set(0), make_set(2)])
        assert joined.frame.tolist() == [0, 2, 2]
        assert joined.counts().tolist() == [1, 0, 2]
        assert joined.rank().tolist() == [0, 0, 1]

    def test_top_takes_the_best_of_every_frame(self):
        top = ProposalSet.cat([make_set(3), make_set(1, 10), make_set(0), make_set(4, 20)]).top(2)
        assert top.features[:, 0].tolist() == [0, 1, 10, 20, 21]
        assert top.boxes[:, 0].tolist() == [0, 1, 10, 20, 21]
        assert top.scores.tolist() == [0, -1, -10, -20, -21]
        assert top.frame.tolist() == [0, 0, 1, 3, 3]

    def test_top_zero_is_empty_and_top_of_more_than_there_are_is_all(self):
        assert len(make_set(3).top(0)) == 0
        assert len(make_set(3).top(99)) == 3

    def test_rank_and_top_hold_after_a_selection(self):
        joined = ProposalSet.cat([make_set(3), make_set(3, 10)])
        kept = joined[torch.tensor([False, True, True, False, True, True])]
        assert kept.rank().tolist() == [0, 1, 0, 1]
        assert kept.top(1).features[:, 0].tolist() == [1, 11]

    def test_nothing_at_all_works(self):
        empty = ProposalSet.cat([make_set(0), make_set(0)])
        assert len(empty.top(3)) == 0 and empty.counts().tolist() == [0, 0]
        assert empty.features.shape == (0, 2) and empty.boxes.shape == (0, 4)

    def test_features_may_be_patches(self):
        numbers = torch.arange(2.0)
        patches = ProposalSet.of_frame(torch.zeros(2, 4), numbers[:, None, None].repeat(1, 9, 5), numbers, SIZE)
        assert ProposalSet.cat([patches, patches]).top(1).features.shape == (2, 9, 5)

    def test_detached_values_are_equal_and_have_no_gradient(self):
        features = torch.ones(1, 2, requires_grad=True)
        detached = ProposalSet.of_frame(torch.zeros(1, 4), features * 2, torch.zeros(1), SIZE).detach()
        assert not detached.features.requires_grad and detached.features.eq(2).all()

    def test_the_gradient_passes_through_joining_and_top(self):
        features = torch.ones(3, 2, requires_grad=True)
        one = ProposalSet.of_frame(torch.zeros(3, 4), features, torch.zeros(3), SIZE)
        ProposalSet.cat([one, make_set(1)]).top(2).features.sum().backward()
        assert features.grad.tolist() == [[1, 1], [1, 1], [0, 0]]

    @pytest.mark.parametrize("name", ["features", "scores", "frame"])
    def test_a_wrong_number_of_rows_is_refused_by_name(self, name):
        with pytest.raises(ValueError, match=f"{name}: expected 2 rows"):
            dataclasses.replace(make_set(2), **{name: getattr(make_set(3), name)})

    def test_boxes_of_a_wrong_shape_are_refused(self):
        with pytest.raises(ValueError, match=r"boxes: expected the shape \(M, 4\), got \(2, 5\)"):
            dataclasses.replace(make_set(2), boxes=torch.zeros(2, 5))

    def test_joining_no_sets_is_refused(self):
        with pytest.raises(ValueError, match="at least one set"):
            ProposalSet.cat([])


class TestFrame:
    def test_a_negative_index_is_refused(self):
        with pytest.raises(ValueError, match="at least 0, got -1"):
            Frame("video", -1, SIZE)

    @pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
    def test_a_feature_map_of_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"'res4'.*\(1, C, H, W\)"):
            Frame("video", 0, SIZE, {"res4": torch.zeros(shape)})

    def test_a_changed_copy_leaves_the_frame_as_it_was(self):
        frame = Frame("video", 3, SIZE)
        changed = frame.with_(proposals=make_set(1))
        assert frame.proposals is None and len(changed.proposals) == 1 and changed.index == 3

    def test_fields_cannot_be_assigned(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Frame("video", 0, SIZE).index = 1


class TestTemporalContext:
    def make(self) -> TemporalContext:
        frames = tuple(
            Frame("video", index, SIZE, {"res4": torch.full((1, 2, 3, 4), float(index))}, make_set(index, 10 * index))
            for index in range(3)
        )
        return TemporalContext(frames, (Role.LOCAL, Role.GLOBAL, Role.LOCAL), {"state": torch.ones(1)})

    def test_the_empty_context_has_no_proposals(self):
        assert len(TemporalContext()) == 0
        assert TemporalContext().proposals() is None
        assert len(TemporalContext().select(Role.LOCAL)) == 0

    def test_selecting_keeps_order_frames_and_carry(self):
        local = self.make().select(Role.LOCAL)
        assert [frame.index for frame in local.frames] == [0, 2]
        assert local.roles == (Role.LOCAL, Role.LOCAL)
        assert local.carry["state"] == 1
        assert len(self.make().select(Role.LOCAL, Role.GLOBAL)) == 3
        assert len(self.make().select()) == 0

    def test_feature_maps_are_stacked_in_the_order_of_the_frames(self):
        features = self.make().features("res4")
        assert features.shape == (3, 2, 3, 4)
        assert features[:, 0, 0, 0].tolist() == [0, 1, 2]

    def test_proposals_are_joined_and_cut_to_the_best_of_every_frame(self):
        assert self.make().proposals().frame.tolist() == [1, 2, 2]
        assert self.make().proposals(1).features[:, 0].tolist() == [10, 20]

    def test_a_level_that_a_frame_lacks_is_named(self):
        with pytest.raises(ValueError, match="'res5'.*video:0"):
            self.make().features("res5")
        with pytest.raises(ValueError, match="without frames"):
            TemporalContext().features("res4")

    def test_as_many_roles_as_frames_are_demanded(self):
        with pytest.raises(ValueError, match=r"frames \(1\), got 0"):
            TemporalContext((Frame("video", 0, SIZE),), ())

    def test_it_is_read_only(self):
        context = self.make()
        with pytest.raises(dataclasses.FrozenInstanceError):
            context.frames = ()
        with pytest.raises(TypeError):
            context.carry["state"] = torch.zeros(1)


class TestPreciseBoxes:
    def test_float64_is_kept_to_the_last_digit_by_every_operation(self):
        exact = torch.tensor([[0.1, 0.2, 10.3, 20.4], [1 / 3, 0, 2 / 3, 1]], dtype=torch.float64)
        boxes = PreciseBoxes(exact)
        same = (boxes, boxes.clone(), boxes.to(torch.device("cpu")), boxes[:], boxes[torch.tensor([True, True])])
        for result in (*same, PreciseBoxes.cat([boxes[:1], boxes[1:]])):
            assert isinstance(result, PreciseBoxes)
            assert result.tensor.dtype == torch.float64 and result.tensor.equal(exact)

    def test_an_integer_takes_one_box(self):
        assert PreciseBoxes(torch.arange(8.0).view(2, 4))[1].tensor.tolist() == [[4, 5, 6, 7]]

    def test_half_precision_is_kept_as_well(self):
        assert PreciseBoxes(torch.zeros(1, 4, dtype=torch.float16)).tensor.dtype == torch.float16

    def test_a_clone_shares_no_memory(self):
        boxes = PreciseBoxes(torch.zeros(1, 4))
        boxes.clone().tensor.add_(1)
        assert boxes.tensor.eq(0).all()

    def test_scaling_clipping_and_area_work_as_in_the_door(self):
        boxes = PreciseBoxes(torch.tensor([[-4.0, 2.0, 8.0, 20.0]], dtype=torch.float64))
        boxes.clip((10, 6))
        assert boxes.tensor.tolist() == [[0, 2, 6, 10]]
        boxes.scale(2, 0.5)
        assert boxes.tensor.tolist() == [[0, 1, 12, 5]] and boxes.tensor.dtype == torch.float64
        assert boxes.area().tolist() == [48]

    def test_empty_tensors_and_empty_lists_become_no_boxes(self):
        assert PreciseBoxes(torch.zeros(0)).tensor.shape == (0, 4)
        assert len(PreciseBoxes.cat([])) == 0
        assert PreciseBoxes(torch.zeros(0, 4, dtype=torch.float64)).nonempty().shape == (0,)

    def test_it_lives_in_instances_beside_the_boxes_of_the_door(self):
        precise = Instances(SIZE, boxes=PreciseBoxes(torch.ones(1, 4, dtype=torch.float64)))
        plain = Instances(SIZE, boxes=Boxes(torch.zeros(2, 4)))
        assert Instances.cat([precise, plain]).boxes.tensor.dtype == torch.float64

    def test_an_index_that_gives_no_rows_of_four_is_refused(self):
        with pytest.raises(IndexError, match="rows of 4"):
            PreciseBoxes(torch.zeros(2, 4))[:, :2]


def test_a_support_is_a_pair_of_frame_and_role():
    index, role = Support(3, Role.KEYFRAME)
    assert (index, role) == (3, Role.KEYFRAME)


def test_a_frame_hands_out_its_proposals_or_says_that_it_has_none():
    proposals = ProposalSet.of_frame(torch.zeros(1, 4), torch.zeros(1, 2), torch.zeros(1), (32, 32))
    assert Frame("fox", 3, (32, 32), proposals=proposals).require_proposals() is proposals
    with pytest.raises(ValueError, match="frame 3 of video 'fox': expected proposals, it has none yet"):
        Frame("fox", 3, (32, 32)).require_proposals()
