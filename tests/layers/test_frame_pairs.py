"""Attention of a stream, pair of frames by pair of frames, beside the same over all at once."""

import copy
import gc
import weakref

import pytest
import torch

from helpers.models import build_detector, make_video
from helpers.streams import detect_as_stream
from vod2.layers import RelationModules, frame_pairs, remembered_attention
from vod2.structures import ProposalSet
from vod2.temporal import SlidingWindow

DIM, ROWS = 16, 6
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def any_number_of_pairs(monkeypatch):
    monkeypatch.setattr(frame_pairs, "WORTH_IT", 0)


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request) -> torch.dtype:
    GENERATOR.manual_seed(0)
    return request.param


@pytest.fixture
def relation(dtype):
    torch.manual_seed(0)
    made = RelationModules(DIM, num_heads=4, geometry_dim=16).with_geometry().to(dtype).eval()
    for layer in (made.query, made.key):
        torch.nn.init.normal_(layer.weight)  # logits that differ
    return made


def make_frame(dtype: torch.dtype, rows: int = ROWS) -> ProposalSet:
    corner = torch.rand(rows, 2, generator=GENERATOR, dtype=dtype) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(rows, 2, generator=GENERATOR, dtype=dtype) * 20], dim=1)
    features = torch.randn(rows, DIM, generator=GENERATOR, dtype=dtype)
    scores = torch.randn(rows, generator=GENERATOR, dtype=dtype).sort(descending=True).values
    return ProposalSet.of_frame(boxes, features, scores, (80, 80)).remembered()


def best(support: ProposalSet, share: float = 0.4) -> ProposalSet:
    """RDN's advanced pool: the best of all frames, frame after frame."""
    chosen = support.scores.argsort(descending=True, stable=True)[: max(1, round(share * len(support)))]
    return support[chosen.sort().values]


def plain(relation, query: ProposalSet, key: ProposalSet) -> torch.Tensor:
    return relation(query.features, key.features, query.boxes, key.boxes)


def check(relation, query: ProposalSet, key: ProposalSet) -> None:
    with torch.no_grad():
        found, expected = remembered_attention(relation, query, key), plain(relation, query, key)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[found.dtype], atol=TOLERANCE[found.dtype])


def test_a_window_that_moves_gives_what_all_pairs_give(relation, dtype):
    frames = [make_frame(dtype) for _ in range(14)]
    sizes = []
    for last in range(1, len(frames)):
        support = ProposalSet.cat(frames[max(0, last - 4) : last + 1])
        pool = best(support)
        sizes.append(pool.counts().tolist())
        check(relation, pool, support)
    assert len({tuple(size) for size in sizes}) > 5, "rows of a frame come into the pool, and leave it"


@pytest.mark.parametrize(
    "window",
    [[0, 0, 1, 1, 1, 2], [2, 1, 0], [0], [3, 3], [0, 1, 2, 3, 4, 5, 6, 7, 0]],
    ids=["repeated", "backwards", "one", "one, repeated", "longer than before"],
)
def test_any_context_after_any_other(relation, dtype, window):
    frames = [make_frame(dtype, rows) for rows in (6, 6, 0, 3, 6, 1, 6, 6)]
    for before in ([0, 1, 2], [4, 3], window):
        support = ProposalSet.cat([frames[number] for number in before])
        check(relation, best(support), support)
    tops = ProposalSet.cat([frames[number].top(2) for number in window])
    check(relation, tops, support)
    check(relation, tops, ProposalSet.cat([frames[number][:4] for number in window]))


def test_single_heads_and_output_projections_and_attention_without_geometry(dtype):
    modules = RelationModules(DIM, num_heads=1, geometry_dim=16)
    projected = frame_pairs.RelationAttention(DIM, 2, output=True)
    support = ProposalSet.cat([make_frame(dtype) for _ in range(3)])
    for relation in (modules.with_geometry(), modules.without_geometry(), projected):
        check(relation.to(dtype).eval(), best(support), support)


def test_each_pair_of_frames_is_computed_once(relation, dtype, monkeypatch):
    pairs, real = [], relation.logits

    def counted(q, k, *boxes):
        pairs.append(q.shape[1] * k.shape[1])
        return real(q, k, *boxes)

    monkeypatch.setattr(relation, "logits", counted)
    frames = [make_frame(dtype) for _ in range(8)]
    for last in range(4, 8):
        support = ProposalSet.cat(frames[last - 4 : last + 1])
        check(relation, ProposalSet.cat([frame.top(2) for frame in frames[last - 4 : last + 1]]), support)
    # 25 pairs of frames at the first step; 5 for the keys and 4 more for the queries of each new frame.
    assert sum(pairs) == (25 + 3 * 9) * 2 * ROWS


def test_other_weights_are_noticed(relation, dtype):
    support = ProposalSet.cat([make_frame(dtype) for _ in range(3)])
    check(relation, best(support), support)
    with torch.no_grad():
        relation.geometry.projection.weight.mul_(1.5)
    check(relation, best(support), support)
    other = copy.deepcopy(relation)
    with torch.no_grad():
        other.value.weight.neg_()
    check(other, best(support), support)
    check(relation, best(support), support)


def test_a_frame_that_is_not_finite_is_forgotten_when_it_leaves(relation, dtype):
    frames = [make_frame(dtype) for _ in range(4)]
    frames[1].features[2, 0] = torch.nan
    for window in ([0, 1, 2], [0, 2, 3], [0, 2]):
        support = ProposalSet.cat([frames[number] for number in window])
        with torch.no_grad():
            found = remembered_attention(relation, best(support), support)
        assert found.isfinite().all() == (1 not in window)
    check(relation, best(support), support)


def test_after_an_error_all_is_computed_that_is_missing(relation, dtype, monkeypatch):
    monkeypatch.setattr(frame_pairs, "_BATCH", 1)  # a call for each frame
    frames = [make_frame(dtype) for _ in range(5)]
    real, calls = relation.logits, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 3:
            raise MemoryError
        return real(*given)

    check(relation, best(ProposalSet.cat(frames[:3])), ProposalSet.cat(frames[:3]))
    support = ProposalSet.cat(frames[1:])
    monkeypatch.setattr(relation, "logits", failing)
    with pytest.raises(MemoryError), torch.no_grad():
        remembered_attention(relation, best(support, 0.8), support)
    check(relation, best(support, 0.8), support)


def test_tables_end_with_their_frames_and_do_not_grow(relation, dtype):
    frames = [make_frame(dtype) for _ in range(4)]
    seen = []
    for _ in range(30):
        frames = [*frames[1:], make_frame(dtype)]
        support = ProposalSet.cat(frames)
        check(relation, best(support), support)
        sources = [part.source for part in support.rows.first_rows()]
        seen += [weakref.ref(source) for source in sources]
        tables = [source.tables[relation] for source in sources if relation in source.tables]
        assert all(table.sums.shape[2] <= 4 + frame_pairs._SPARE for table in tables)
        assert all(table.sums.shape[0] <= 2 * ROWS + 1 for table in tables)
    gc.disable()  # a circle of references would keep them until it is found
    try:
        del frames, support, sources, tables
        assert not any(ref() for ref in seen)
    finally:
        gc.enable()


def test_nothing_is_kept_where_it_may_not_be(relation, dtype, monkeypatch):
    support = ProposalSet.cat([make_frame(dtype) for _ in range(3)])
    pool = best(support)
    assert remembered_attention(relation, pool, support) is None, "gradients flow"
    with torch.no_grad():
        relation.train()
        assert remembered_attention(relation, pool, support) is None
        relation.eval()
        anywhere = ProposalSet.cat([make_frame(dtype)._with_rows(None)])
        assert remembered_attention(relation, anywhere, support) is None, "no memory holds them"
        assert remembered_attention(relation, support[torch.tensor([1, 3])], support) is None, "not the first rows"
        assert remembered_attention(relation, pool, support[:0]) is None
        assert remembered_attention(relation, pool[:0], support) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert remembered_attention(relation, pool, support) is None
        monkeypatch.setattr(frame_pairs, "WORTH_IT", len(pool) * len(support) + 1)
        assert remembered_attention(relation, pool, support) is None


@pytest.mark.parametrize("pool", ["all", "frame"])
def test_streams_of_rdn_are_the_same_with_and_without(pool, monkeypatch):
    keys = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "MODEL.RDN.ADVANCED_POOL": pool}
    model = build_detector(keys | {"MODEL.RDN.ADVANCED_RATIO": 0.4}, dtype=torch.float64)
    video, schedule = make_video(16), SlidingWindow(3)
    with_tables = detect_as_stream(model, video, schedule)
    monkeypatch.setattr(frame_pairs, "WORTH_IT", 10**9)
    for remembered, computed in zip(with_tables, detect_as_stream(model, video, schedule), strict=True):
        assert len(computed) > 0
        torch.testing.assert_close(remembered.pred_boxes.tensor, computed.pred_boxes.tensor, rtol=0, atol=1e-6)
        torch.testing.assert_close(remembered.scores, computed.scores, rtol=0, atol=1e-10)
