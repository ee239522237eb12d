"""FCOS: its losses beside the paper's equations in loops, its boxes, and what it refuses."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from helpers.models import FCOS_KEYS, IMAGE_SIZE, NUM_CLASSES, build_detector, make_targets, make_video, tiny_cfg
from vod2.d2 import build_model
from vod2.errors import UserError
from vod2.modeling.one_stage.head import features_at
from vod2.modeling.one_stage.selection import BoxSelection
from vod2.modeling.one_stage.targets import locations_of

YOLOV = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "YOLOVAggregator", "MODEL.ROI_BOX_HEAD.NAME": "TwoTowerBoxHead"}

SPFA = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SPFAAggregator", "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}


@pytest.fixture(scope="module")
def model():
    return build_detector(FCOS_KEYS | YOLOV, dtype=torch.float64).train()


@pytest.fixture(scope="module")
def maps(model):
    images = torch.stack(make_video(2)).double() / 100 - 1
    with torch.no_grad():
        return model.backbone(images)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_giou(a: list[float], b: list[float]) -> float:
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = area_a + area_b - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def slow_losses(dense, locations, assigner, frames, ignored=None):
    """Equation 2 with GIoU, and the centerness: one location after the other."""
    classes = boxes = centers = 0.0
    positives = 0
    for row, target in enumerate(frames):
        gt = target.gt_boxes.tensor.tolist()
        found = assigner(locations, target.gt_boxes.tensor)
        shown = dict(zip(found.rows.tolist(), found.objects.tolist(), strict=True))
        for cell, (x, y) in enumerate(locations.points.tolist()):
            regions = [] if ignored is None or ignored[row] is None else ignored[row].tolist()
            inside = any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in regions)
            label = int(target.gt_classes[shown[cell]]) if cell in shown else None
            if label is not None or not inside:
                for k, logit in enumerate(dense.logits[row, cell].tolist()):
                    p = sigmoid(logit)
                    # The focal loss (Lin et al., ICCV 2017), alpha .25 and gamma 2
                    classes -= 0.25 * (1 - p) ** 2 * math.log(p) if k == label else 0.75 * p**2 * math.log(1 - p)
            if label is None:
                continue
            positives += 1
            x0, y0, x1, y1 = gt[shown[cell]]
            left, top, right, bottom = dense.distances[row, cell].tolist()
            boxes += 1 - slow_giou([x - left, y - top, x + right, y + bottom], [x0, y0, x1, y1])
            across = sorted([x - x0, x1 - x])
            down = sorted([y - y0, y1 - y])
            wanted = math.sqrt(across[0] / across[1] * down[0] / down[1])
            q = sigmoid(dense.centerness[row, cell].item())
            centers -= wanted * math.log(q) + (1 - wanted) * math.log(1 - q)
    count = max(positives, 1)
    return {"loss_fcos_cls": classes / count, "loss_fcos_box": boxes / count, "loss_fcos_centerness": centers / count}


def losses_of(model, maps, targets, ignored=None):
    fcos = model.proposal_generator
    with torch.no_grad():
        return fcos.propose([IMAGE_SIZE] * len(targets), maps, targets, ignored)[1]


def dense_of(model, maps):
    fcos = model.proposal_generator
    levels = [maps[name] for name in fcos.in_features]
    sizes = [tuple(level.shape[2:]) for level in levels]
    with torch.no_grad():
        return fcos.head(levels), locations_of(sizes, fcos.head.strides, torch.float64, torch.device("cpu"))


TWO = [make_targets(), make_targets([[20.0, 8.0, 44.0, 40.0]], [0])]


@pytest.mark.parametrize("targets", [TWO, [make_targets(), make_targets([])]], ids=["objects", "one empty"])
def test_the_losses_are_those_of_the_paper(model, maps, targets):
    dense, locations = dense_of(model, maps)
    expected = slow_losses(dense, locations, model.proposal_generator.assigner, targets)
    found = {name: loss.item() for name, loss in losses_of(model, maps, targets).items()}
    assert found == pytest.approx(expected, rel=1e-9)
    assert all(value > 0 for value in found.values())


def test_a_batch_without_objects_has_the_loss_of_the_background_alone(model, maps):
    targets = [make_targets([]), make_targets([])]
    losses = losses_of(model, maps, targets)
    dense, locations = dense_of(model, maps)
    assert losses["loss_fcos_box"] == losses["loss_fcos_centerness"] == 0
    expected = slow_losses(dense, locations, model.proposal_generator.assigner, targets)
    assert losses["loss_fcos_cls"].item() == pytest.approx(expected["loss_fcos_cls"], rel=1e-9)


def test_in_ignore_regions_there_is_no_background(model, maps):
    ignored = [torch.tensor([[0.0, 0.0, 50.0, 64.0], [60.0, 0.0, 90.0, 20.0]]), None]
    dense, locations = dense_of(model, maps)
    expected = slow_losses(dense, locations, model.proposal_generator.assigner, TWO, ignored)
    found = {name: loss.item() for name, loss in losses_of(model, maps, TWO, ignored).items()}
    assert found == pytest.approx(expected, rel=1e-9)
    assert found["loss_fcos_cls"] < losses_of(model, maps, TWO)["loss_fcos_cls"].item()


def test_a_support_gives_no_loss(model, maps):
    alone = losses_of(model, {name: value[:1] for name, value in maps.items()}, TWO[:1])
    with_support = losses_of(model, maps, [TWO[0], None])
    torch.testing.assert_close(with_support, alone)


def test_the_boxes_are_the_best_after_a_loose_nms(model, maps):
    """By loops over sorted boxes."""
    fcos = model.proposal_generator
    dense, locations = dense_of(model, maps)
    with torch.no_grad():
        proposals, _ = fcos.propose([IMAGE_SIZE] * 2, maps)
    for row, found in enumerate(proposals):
        boxes, scores = [], []
        for cell, (x, y) in enumerate(locations.points.tolist()):
            left, top, right, bottom = dense.distances[row, cell].tolist()
            box = [max(x - left, 0), max(y - top, 0), min(x + right, IMAGE_SIZE[1]), min(y + bottom, IMAGE_SIZE[0])]
            center = sigmoid(dense.centerness[row, cell].item())
            boxes.append(box)
            scores.append([math.sqrt(sigmoid(logit) * center) for logit in dense.logits[row, cell].tolist()])
        best = [max(values) for values in scores]
        candidates = []
        for level in range(3):
            cells = [cell for cell in range(len(boxes)) if locations.level[cell] == level]
            candidates += sorted(cells, key=lambda cell: -best[cell])[:30]
        kept: list[int] = []
        for cell in sorted(candidates, key=lambda cell: -best[cell]):
            if all(box_iou(torch.tensor([boxes[cell]]), torch.tensor([boxes[other]])).item() <= 0.75 for other in kept):
                kept.append(cell)
        kept = kept[:8]
        torch.testing.assert_close(found.proposal_boxes.tensor, torch.tensor([boxes[cell] for cell in kept]).double())
        torch.testing.assert_close(found.scores, torch.tensor([scores[cell] for cell in kept]).double())
        torch.testing.assert_close(found.objectness_logits.sigmoid(), torch.tensor([best[c] for c in kept]).double())
        expected = [
            torch.cat([tower[int(locations.level[cell])][row] for tower in dense.towers]).flatten(1) for cell in kept
        ]
        firsts = [0, 96, 120]
        cells = [cell - firsts[int(locations.level[cell])] for cell in kept]
        wanted = torch.stack([tower[:, cell] for tower, cell in zip(expected, cells, strict=True)])
        torch.testing.assert_close(found.tower_features, wanted)


def test_without_an_aggregator_every_box_may_be_a_detection_and_training_takes_none():
    model = build_detector(FCOS_KEYS)
    features = model.backbone(torch.zeros(1, 3, *IMAGE_SIZE))
    (found,), _ = model.proposal_generator.eval().propose([IMAGE_SIZE], features)
    assert len(found) > 8 and found.scores.shape[1] == NUM_CLASSES and not found.has("tower_features")
    (none,), _ = model.proposal_generator.train().propose([IMAGE_SIZE], features)
    assert len(none) == 0


def test_features_come_in_the_order_that_is_asked_for():
    towers = [torch.arange(12.0).reshape(2, 2, 3), torch.arange(100.0, 104.0).reshape(2, 1, 2)]
    cells = torch.cat([tower.flatten(1).T for tower in towers])  # (R, C)
    for rows in ([7, 0, 6, 5], [3], []):
        index = torch.tensor(rows, dtype=torch.int64)
        assert features_at(towers, index).tolist() == cells[index].tolist()


def test_what_is_not_finite_is_not_taken(model, maps):
    broken = {name: value[:1].clone() for name, value in maps.items()}
    broken["p4"][:, :, 1, 2] = torch.nan
    with torch.no_grad():
        ((found,), _), ((whole,), _) = (
            model.proposal_generator.propose([IMAGE_SIZE], features)
            for features in (broken, {name: value[:1] for name, value in maps.items()})
        )
    assert len(found) > 0 and found.proposal_boxes.tensor.isfinite().all() and found.scores.isfinite().all()
    assert len(whole) == 8


ONE_MAP = {
    "MODEL.BACKBONE.NAME": "build_narrow_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
    "MODEL.FCOS.SIZES": [],
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator",
    "MODEL.FGFA.STAGE": "res4",
}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"MODEL.FCOS.SIZES": [16]}, "MODEL.FCOS.SIZES has 1 numbers, for 3 levels"),
        ({"MODEL.FCOS.SIZES": [28, 16]}, "MODEL.FCOS: expected SIZES that are positive and ascend"),
        ({"MODEL.FCOS.IN_FEATURES": ["p3", "p9"]}, "MODEL.FCOS.IN_FEATURES is .*expected some of p3, p4, p5"),
        ({"MODEL.FCOS.IN_FEATURES": []}, "MODEL.FCOS.IN_FEATURES is"),
        ({"MODEL.FCOS.IN_FEATURES": ["p5", "p4", "p3"]}, r"strides \[32, 16, 8\]: expected ascending ones"),
        ({"MODEL.FCOS.FOCAL_ALPHA": 7.0}, "FOCAL_ALPHA in .0, 1. .* got 7.0, 2.0"),
        ({"MODEL.FCOS.FOCAL_GAMMA": -1.0}, "FOCAL_GAMMA of at least 0"),
        (
            {"MODEL.PYRAMID.BOTTOM_UP": "build_narow"},
            "MODEL.PYRAMID.BOTTOM_UP is 'build_narow': expected one of .*build",
        ),
        ({"MODEL.FCOS.NUM_CONVS": 0}, "NUM_CONVS of at least 1"),
        ({"MODEL.FCOS.NORM": "GN"}, "multiple of 32"),
        ({"MODEL.FCOS.PRIOR": 1.0}, "PRIOR between 0 and 1"),
        ({"MODEL.FCOS.PRE_NMS_TOPK": 0}, "PRE_NMS_TOPK"),
        (YOLOV | {"MODEL.RESCORING.TOPK": 0}, "TOPK"),
        (YOLOV | {"MODEL.RESCORING.NMS_THRESH": 1.5}, "NMS_THRESH"),
        (YOLOV | {"MODEL.RESCORING.MATCH_IOU": 0.0}, "MODEL.RESCORING.MATCH_IOU is 0.0"),
        (YOLOV | {"MODEL.ROI_BOX_HEAD.FC_DIM": 63}, "FC_DIM is 63"),
        (YOLOV | {"MODEL.YOLOV.NUM_HEADS": 3}, "NUM_HEADS"),
        (YOLOV | {"MODEL.YOLOV.SIMILARITY": 2.0}, "SIMILARITY"),
        ({"MODEL.PYRAMID.TOP_LEVELS": -1}, "MODEL.PYRAMID: expected TOP_LEVELS"),
        ({"MODEL.FPN.IN_FEATURES": ["res3", "res9"]}, "MODEL.FPN.IN_FEATURES: expected some of"),
        ({"MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"], "MODEL.FPN.IN_FEATURES": ["res4", "res5"]}, "strides"),
        ({"MODEL.PROPOSAL_GENERATOR.NAME": "VideoRPN", "MODEL.RPN.IN_FEATURES": ["p4"]}, "needs .*'FCOS'"),
        ({"MODEL.ROI_HEADS.NAME": "VideoROIHeads", "MODEL.ROI_HEADS.IN_FEATURES": ["p4"]}, "'RescoringHeads'"),
        ({"MODEL.FREEZE": "detector"}, "no aggregator"),
        ({"MODEL.META_ARCHITECTURE": "VideoRCNN"}, "VideoRCNN needs"),
        (SPFA | {"MODEL.VIDEO.REDUCE_CHANNELS": 8}, "SPFAAggregator asks for .* RescoringHeads pool nothing"),
        (SPFA, r"MODEL.ROI_HEADS.IN_FEATURES is \['res5'\]"),
        ({"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator"}, "pyramid"),
        (ONE_MAP | {"MODEL.FCOS.IN_FEATURES": ["res3"]}, "STAGE is 'res4', but MODEL.FCOS.IN_FEATURES names 'res3'"),
    ],
)
def test_settings_that_make_no_detector_are_refused_in_one_sentence(keys, words):
    with pytest.raises(UserError, match=words):
        build_model(tiny_cfg(FCOS_KEYS | keys))


def test_a_two_tower_head_refuses_pooled_boxes():
    with pytest.raises(UserError, match="TwoTowerBoxHead takes the two towers"):
        build_model(tiny_cfg({"MODEL.ROI_BOX_HEAD.NAME": "TwoTowerBoxHead"}))


@pytest.mark.parametrize(("limit", "topk"), [(1, None), (2, 3), (100, 100)])
def test_the_selection_takes_the_best_of_each_level(limit, topk):
    rng = torch.Generator().manual_seed(0)
    corners = 50 * torch.rand(40, 2, generator=rng)
    boxes, scores = torch.cat([corners, corners + 20], dim=1), torch.rand(40, generator=rng)
    levels, usable = torch.arange(40) % 3, torch.rand(40, generator=rng) < 0.8
    found = BoxSelection(limit, 0.5, topk)(boxes, scores, levels, usable).tolist()
    candidates = []
    for level in range(3):
        rows = [row for row in range(40) if usable[row] and levels[row] == level]
        candidates += sorted(rows, key=lambda row: -scores[row])[:limit]
    kept: list[int] = []
    for row in sorted(candidates, key=lambda row: -scores[row]):
        if all(box_iou(boxes[row][None], boxes[other][None]).item() <= 0.5 for other in kept):
            kept.append(row)
    assert found == kept[:topk] and len(found) > 0
