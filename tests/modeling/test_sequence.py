"""Several proposal aggregators, one after the other.

D: embedding (4).
"""

import pytest
import torch
from torch import Tensor

from helpers.models import DIM, tiny_cfg
from helpers.proposals import random_context, random_proposals
from vod2.d2 import Instances
from vod2.errors import UserError
from vod2.modeling import Aggregated, ProposalAggregator, ProposalNeeds
from vod2.modeling.roi_heads import AggregatorSequence, build_proposal_aggregator
from vod2.structures import Clip, Frame, ProposalSet, TemporalContext

NAME = "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME"


class Affine(ProposalAggregator):
    """factor * features + number of supports, with whatever else it is told to return; remembers its arguments."""

    def __init__(self, factor: float, **rest) -> None:
        super().__init__()
        self.factor, self.rest, self.calls = factor, rest, []

    def forward(self, query, context):
        self.calls.append((query, context))
        return Aggregated(self.factor * query.features + len(context), **self.rest)


class MeanOfBatch(ProposalAggregator):
    """Adds the mean of the features of all clips of a batch: it cannot be called clip by clip."""

    def forward(self, query, context):
        raise NotImplementedError

    def forward_clips(self, clips):
        mean = torch.cat([clip.key.proposals.features for clip in clips]).mean()
        return [Aggregated(clip.key.proposals.features + mean) for clip in clips]


def proposals_and_context(seed: int = 0, supports: tuple[int, ...] = (2, 1, 3)):
    rng = torch.Generator().manual_seed(seed)
    return random_proposals(3, 4, rng), random_context(supports, 4, rng)


def clip_of(query: ProposalSet, context: TemporalContext, **rest) -> Clip:
    return Clip(Frame("video", 0, (64, 96), proposals=query, **rest), context)


def named(*names: str) -> dict[str, Tensor]:
    return {name: torch.tensor(float(number)) for number, name in enumerate(names)}


class TestWhatAPartIsGiven:
    def test_each_takes_the_features_that_the_one_before_has_made(self):
        query, context = proposals_and_context()
        value = AggregatorSequence([Affine(2), Affine(10)])(query, context).value
        torch.testing.assert_close(value, 10 * (2 * query.features + 3) + 3)

    def test_all_else_of_the_proposals_stays(self):
        query, context = proposals_and_context()
        second = Affine(1)
        AggregatorSequence([Affine(2), second])(query, context)
        ((given, _),) = second.calls
        assert given.boxes is query.boxes and given.scores is query.scores and given.fields == query.fields

    def test_all_look_at_the_same_context(self):
        query, context = proposals_and_context()
        context = TemporalContext(context.frames, context.roles, named("first.x", "second.y"))
        parts = [Affine(2), Affine(3)]
        AggregatorSequence(parts)(query, context)
        assert all(part.calls[0][1] is context for part in parts)

    def test_the_proposals_of_the_caller_are_left_as_they_were(self):
        query, context = proposals_and_context()
        before = query.features.clone()
        AggregatorSequence([Affine(2), Affine(3)])(query, context).value.zero_()
        assert query.features.equal(before)


class TestWhatComesOut:
    def test_carry_and_losses_of_all_of_them(self):
        parts = [Affine(1, carry=named("a.x"), losses=named("loss_a")), Affine(1, carry=named("b.x"))]
        result = AggregatorSequence(parts)(*proposals_and_context())
        assert result.carry.keys() == {"a.x", "b.x"} and result.losses.keys() == {"loss_a"}

    @pytest.mark.parametrize("kept, expected", [((1, 2), 2), ((1, None), 1), ((None, 2), 2), ((None, None), None)])
    def test_the_relations_of_the_last_one_that_keeps_any(self, kept, expected):
        parts = [Affine(1, relations=None if one is None else torch.full((3, 6), one)) for one in kept]
        relations = AggregatorSequence(parts)(*proposals_and_context()).relations
        assert (relations is None) if expected is None else relations.eq(expected).all()

    @pytest.mark.parametrize("kind", ["carry", "losses"])
    def test_two_that_use_the_same_name_are_refused(self, kind):
        sequence = AggregatorSequence([Affine(1, **{kind: named("same", one)}) for one in ("a", "b")])
        with pytest.raises(ValueError, match=r"\['same'\]: give them different names"):
            sequence(*proposals_and_context())


class TestABatch:
    def test_each_part_is_given_all_clips_at_once(self):
        (first, some), (second, none) = proposals_and_context(1), proposals_and_context(2, ())
        clips = [clip_of(first, some), clip_of(second, none)]
        results = AggregatorSequence([Affine(2), MeanOfBatch(), Affine(3)]).forward_clips(clips)
        doubled = 2 * first.features + 3, 2 * second.features
        mean = torch.cat(doubled).mean()
        torch.testing.assert_close(results[0].value, 3 * (doubled[0] + mean) + 3)
        torch.testing.assert_close(results[1].value, 3 * (doubled[1] + mean))

    def test_the_targets_of_a_key_frame_reach_every_part(self):
        seen = []

        class Watch(Affine):
            def forward_clips(self, clips):
                seen.extend(clip.key.targets for clip in clips)
                return super().forward_clips(clips)

        targets = Instances((64, 96))
        clip = clip_of(*proposals_and_context(), targets=targets)
        AggregatorSequence([Watch(1), Watch(1)]).forward_clips([clip])
        assert len(seen) == 2 and all(one is targets for one in seen)

    def test_results_are_put_together_clip_by_clip(self):
        clip = clip_of(*proposals_and_context())
        sequence = AggregatorSequence([Affine(1, carry=named("a")), Affine(1, carry=named("b"))])
        results = sequence.forward_clips([clip] * 2)
        assert [result.carry.keys() for result in results] == [{"a", "b"}] * 2

    def test_no_clips_have_no_results(self):
        assert AggregatorSequence([Affine(1), Affine(2)]).forward_clips([]) == []


class TestWhatItAsksFor:
    @staticmethod
    def make(*wishes: dict) -> AggregatorSequence:
        parts = [Affine(1) for _ in wishes]
        for part, wish in zip(parts, wishes, strict=True):
            part.needs = ProposalNeeds(**wish)
        return AggregatorSequence(parts)

    def test_nothing_where_none_of_them_does(self):
        sequence = self.make({}, {})
        assert sequence.needs == ProposalNeeds() == ProposalNeeds(False, None, None)

    @pytest.mark.parametrize("kind", ["pooled_maps", "feature_maps"])
    def test_maps_if_one_of_them_does(self, kind):
        assert self.make({}, {kind: True}).needs == ProposalNeeds(**{kind: True})

    @pytest.mark.parametrize(("pools", "joined"), [((None, 3, 8), 8), ((3, 0), 0), ((None, None), None)])
    def test_the_largest_pool_of_supports_where_zero_stands_for_all(self, pools, joined):
        assert self.make(*({"support_pool": one} for one in pools)).needs.support_pool == joined

    @pytest.mark.parametrize("wishes", [(0.4, None), (None, 0.4), (0.4, 0.4)])
    def test_the_iou_of_those_that_ask_for_objects(self, wishes):
        assert self.make(*({"track_iou": one} for one in wishes)).needs.track_iou == 0.4

    def test_two_different_ious_are_refused(self):
        with pytest.raises(ValueError, match=r"got \[0.4, 0.5\]: give the same to all aggregators that ask for it"):
            self.make({"track_iou": 0.5}, {}, {"track_iou": 0.4})

    def test_a_sequence_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="expected at least one aggregator"):
            AggregatorSequence([])


class TestConfiguration:
    def test_names_joined_by_plus_are_built_in_their_order(self):
        sequence = build_proposal_aggregator(tiny_cfg({NAME: "MSTAggregator+RDNAggregator"}), DIM)
        assert [type(part).__name__ for part in sequence.parts] == ["MSTAggregator", "RDNAggregator"]
        assert sequence.needs.track_iou == 0.5

    def test_a_single_name_is_the_aggregator_itself(self):
        assert type(build_proposal_aggregator(tiny_cfg({NAME: "RDNAggregator"}), DIM)).__name__ == "RDNAggregator"
        assert build_proposal_aggregator(tiny_cfg(), DIM) is None

    @pytest.mark.parametrize(
        "name, unknown", [("RDNAggregator+RDM", "RDM"), ("RDM+RDNAggregator", "RDM"), ("RDNAggregator+", "")]
    )
    def test_an_unknown_name_is_named_with_its_key(self, name, unknown):
        with pytest.raises(UserError, match=f"^{NAME} is '{unknown}': expected one of .*RDNAggregator"):
            build_proposal_aggregator(tiny_cfg({NAME: name}), DIM)

    def test_a_setting_that_is_refused_is_that_of_the_part(self):
        cfg = tiny_cfg({NAME: "RDNAggregator+MSTAggregator", "MODEL.MST.RATIO": 0.0})
        with pytest.raises(UserError, match=r"^MSTAggregator: MST: expected RATIO in \(0, 1\], got 0.0"):
            build_proposal_aggregator(cfg, DIM)

    def test_what_carries_by_the_same_names_cannot_stand_in_it_twice(self):
        sequence = build_proposal_aggregator(tiny_cfg({NAME: "MEGAAggregator+MEGAAggregator"}), DIM)
        rng = torch.Generator().manual_seed(0)
        options = {"dtype": torch.float32}
        with pytest.raises(ValueError, match="'mega.pending'.*: give them different names"):
            sequence(random_proposals(2, DIM, rng, **options), random_context([2], DIM, rng, **options))
