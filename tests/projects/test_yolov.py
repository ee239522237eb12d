"""YOLOV's aggregation beside loops over pairs of boxes, one equation after the other."""

import math

import pytest
import torch
from torch import Tensor

from helpers.models import tiny_cfg
from helpers.proposals import random_context, random_proposals
from vod2.d2 import ShapeSpec, build_box_head
from vod2.engine.random_weights import draw_weights
from vod2.projects.yolov import YOLOVAggregator
from vod2.structures import TemporalContext

DIM, HALF = 16, 8


def make(num_heads: int, similarity: float) -> YOLOVAggregator:
    aggregator = YOLOVAggregator(dim=DIM, num_heads=num_heads, similarity=similarity, support_topk=5)
    draw_weights(aggregator, seed=1)
    return aggregator.double()


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    """Row by row, of what the layer is given."""
    return torch.stack([layer.weight @ row + (0 if layer.bias is None else layer.bias) for row in x])


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def slow(aggregator: YOLOVAggregator, query, support) -> Tensor:
    """relu(fc(x) + W [SA, AP]) of each box of the key frame."""
    n, m, heads = len(query), len(support), aggregator.num_heads
    size = HALF // heads
    x, y = query.features, support.features
    values, own = linear(aggregator.value, y[:, :HALF]), linear(aggregator.value, x[:, :HALF])
    pairs = (
        (linear(aggregator.query_cls, x[:, :HALF]), linear(aggregator.key_cls, y[:, :HALF])),
        (linear(aggregator.query_box, x[:, HALF:]), linear(aggregator.key_box, y[:, HALF:])),
    )
    confidence = [1 / (1 + math.exp(-score)) for score in support.scores.tolist()]
    rows = []
    for i in range(n):
        attended = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = [0.0] * m
            for q, k in pairs:
                logits = [float(q[i, part] @ k[j, part]) / math.sqrt(size) * confidence[j] for j in range(m)]
                weights = [weight + w / 2 for weight, w in zip(weights, softmax(logits), strict=True)]
            attended.append(sum(weights[j] * values[j, part] for j in range(m)))
        alike = []
        for j in range(m):
            cosine = float(own[i] @ values[j]) / (float(own[i].norm()) * float(values[j].norm()))
            if cosine > aggregator.similarity:
                alike.append(values[j])
        pooled = sum(alike) / len(alike) if alike else torch.zeros(HALF, dtype=torch.float64)
        taken = aggregator.take.weight @ torch.cat([*attended, pooled])
        rows.append((linear(aggregator.transform[0], x[i : i + 1])[0] + taken).clamp(min=0))
    return torch.stack(rows)


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("similarity", [-1.0, 0.3, 1.0])
@torch.no_grad()
def test_the_aggregation_is_that_of_loops(num_heads, similarity):
    rng = torch.Generator().manual_seed(0)
    query, context = random_proposals(4, DIM, rng), random_context([6, 2, 0, 5], DIM, rng)
    aggregator = make(num_heads, similarity)
    expected = slow(aggregator, query, context.proposals(5))
    torch.testing.assert_close(aggregator(query, context).value, expected)


@torch.no_grad()
def test_without_supports_a_fully_connected_layer_remains():
    query, aggregator = random_proposals(3, DIM, torch.Generator().manual_seed(0)), make(4, 0.5)
    expected = aggregator.transform[0](query.features).relu()
    assert aggregator(query, TemporalContext()).value.equal(expected)


def test_the_halves_of_the_embedding_are_those_of_the_towers():
    keys = {"MODEL.ROI_BOX_HEAD.NAME": "TwoTowerBoxHead", "MODEL.ROI_BOX_HEAD.FC_DIM": DIM}
    head = build_box_head(tiny_cfg(keys), ShapeSpec(channels=12, height=1, width=1))
    x = torch.randn(3, 12, 1, 1, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 6:] += 1  # the tower of the boxes
    before, after = head(x), head(changed)
    assert before.shape == (3, DIM) and head.output_shape.channels == DIM
    assert before[:, :HALF].equal(after[:, :HALF]) and not before[:, HALF:].equal(after[:, HALF:])
    assert head(x[:0]).shape == (0, DIM)
