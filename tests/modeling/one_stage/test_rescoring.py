"""The scores of level 2 beside loops: matching, losses, detections; what does not learn, and checkpoints."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from helpers.contracts import losses_of_step
from helpers.models import (
    FCOS_KEYS,
    IMAGE_SIZE,
    NUM_CLASSES,
    assert_same_detections,
    build_detector,
    make_targets,
    make_video,
    tiny_cfg,
)
from helpers.streams import window_clip
from vod2.d2 import Instances, build_model
from vod2.engine import inference_copy
from vod2.errors import UserError
from vod2.export import export_detector
from vod2.modeling.aggregation import Aggregated
from vod2.structures import Clip, Frame, PreciseBoxes, ProposalSet
from vod2.temporal import SlidingWindow

YOLOV = FCOS_KEYS | {
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "YOLOVAggregator",
    "MODEL.ROI_BOX_HEAD.NAME": "TwoTowerBoxHead",
}
BOXES = [
    [4.0, 4.0, 30.0, 34.0],  # the first object
    [4.0, 4.0, 30.0, 22.0],  # IoU .6 with it
    [4.0, 4.0, 16.0, 34.0],  # IoU .46
    [40.0, 10.0, 84.0, 58.0],  # the second object
    [70.0, 2.0, 90.0, 12.0],  # no object, in the region
    [0.0, 50.0, 12.0, 62.0],  # no object
]
REGION = torch.tensor([[60.0, 0.0, 96.0, 20.0]])


@pytest.fixture(scope="module")
def heads():
    return build_detector(YOLOV, dtype=torch.float64).roi_heads.train()


def proposals_of(boxes: list[list[float]]) -> Instances:
    return Instances(
        IMAGE_SIZE,
        proposal_boxes=PreciseBoxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)),
        objectness_logits=torch.linspace(2, -2, len(boxes), dtype=torch.float64),
    )


def clip_of(selected: Instances) -> Clip:
    boxes = selected.proposal_boxes.tensor
    proposals = ProposalSet.of_frame(boxes, boxes.new_zeros(len(boxes), 64), selected.objectness_logits, IMAGE_SIZE)
    return Clip(Frame("video", 0, IMAGE_SIZE, proposals=proposals, targets=selected))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit: float, wanted: float) -> float:
    p = sigmoid(logit)
    return -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)


@pytest.mark.parametrize("region", [None, REGION], ids=["whole image", "ignore region"])
def test_boxes_are_matched_to_the_object_that_they_overlap_most(heads, region):
    targets = make_targets()
    (selected,) = heads.select([proposals_of(BOXES)], [targets], [region])
    for row, box in enumerate(BOXES):
        overlaps = [box_iou(torch.tensor([box]), gt[None]).item() for gt in targets.gt_boxes.tensor]
        best = max(range(2), key=lambda index: overlaps[index])
        shows = overlaps[best] >= 0.5
        assert selected.gt_classes[row] == (targets.gt_classes[best] if shows else NUM_CLASSES)
        assert selected.gt_ious[row].item() == pytest.approx(overlaps[best] if shows else 0.0)
    assert selected.gt_classes.tolist() == [1, 1, NUM_CLASSES, 3, NUM_CLASSES, NUM_CLASSES]
    assert selected.judged.tolist() == [True, True, True, True, region is None, True]


@pytest.mark.parametrize("boxes", [BOXES, []], ids=["boxes", "no boxes"])
@pytest.mark.parametrize("objects", [None, []], ids=["objects", "no objects"])
def test_the_losses_are_those_of_loops(heads, boxes, objects):
    (selected,) = heads.select([proposals_of(boxes)], [make_targets(objects)], [REGION])
    features = torch.randn(len(boxes), 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        _, losses = heads.predict([clip_of(selected)], [Aggregated(features)])
        logits, quality = heads.rescoring(features)
    classes = ious = 0.0
    shown = 0
    for row in range(len(boxes)):
        label, iou = int(selected.gt_classes[row]), selected.gt_ious[row].item()
        shown += label < NUM_CLASSES
        if not selected.judged[row]:
            continue
        classes += sum(cross_entropy(logits[row, k].item(), iou if k == label else 0.0) for k in range(NUM_CLASSES))
        ious += cross_entropy(quality[row].item(), iou)
    expected = {"loss_rescore_cls": classes / max(shown, 1), "loss_rescore_iou": ious / max(shown, 1)}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)


def test_detections_have_the_root_of_class_and_iou_and_the_boxes_of_the_dense_head():
    heads = build_detector(YOLOV | {"MODEL.ROI_HEADS.NMS_THRESH_TEST": 1.0}, dtype=torch.float64).roi_heads
    clip = clip_of(proposals_of(BOXES))
    features = torch.randn(len(BOXES), 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        (found,), _ = heads.predict([clip], [Aggregated(features)])
        logits, quality = heads.rescoring(features)
    assert len(found) > 0
    for row, label, score, box in zip(
        found.proposal_index.tolist(),
        found.pred_classes.tolist(),
        found.scores.tolist(),
        found.pred_boxes.tensor.tolist(),
        strict=True,
    ):
        assert score == pytest.approx(math.sqrt(sigmoid(logits[row, label].item()) * sigmoid(quality[row].item())))
        assert box == BOXES[row]


def test_supports_are_embedded_as_many_as_level_2_looks_at(heads):
    trained, support = heads.select([proposals_of(BOXES + BOXES)] * 2, [make_targets(), None])
    assert len(trained) == 12 and trained.has("gt_ious")
    assert len(support) == 6 and not support.has("gt_ious")  # MODEL.VIDEO.SUPPORT_TOPK of the tiny detector


def test_only_the_temporal_part_learns_on_a_frozen_detector():
    model = build_model(tiny_cfg(YOLOV | {"MODEL.FREEZE": "detector"})).train()
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned and all(name.startswith(("roi_heads.aggregator.", "roi_heads.rescoring.")) for name in learned)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    clip = window_clip(make_video(2), 0, SlidingWindow(1)) | {"instances": make_targets()}
    sum(losses_of_step(model, [clip]).values()).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learned
    for name, value in model.named_buffers():
        assert value.equal(statistics[name]), name


def test_the_weights_of_fcos_begin_a_detector_with_level_2():
    """The detector has the same names in both: a training in two stages loads them as they are."""
    names = set(build_detector(FCOS_KEYS).state_dict())
    more = set(build_detector(YOLOV).state_dict())
    assert names < more
    assert all(name.startswith(("roi_heads.aggregator.", "roi_heads.rescoring.")) for name in more - names)


@pytest.mark.parametrize("keys", [FCOS_KEYS, YOLOV], ids=["FCOS", "YOLOV"])
def test_a_state_that_is_saved_and_loaded_detects_the_same(keys, tmp_path):
    model, other = build_detector(keys), build_detector(keys, seed=1)
    torch.save(model.state_dict(), tmp_path / "state.pth")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    clip = window_clip(make_video(2), 0, SlidingWindow(1))
    assert_same_detections(other([clip])[0]["instances"], model([clip])[0]["instances"])


def test_a_copy_for_inference_detects_the_same_to_rounding():
    model = build_detector(YOLOV, dtype=torch.float64)
    clip = window_clip(make_video(2), 0, SlidingWindow(1))
    assert_same_detections(inference_copy(model)([clip])[0]["instances"], model([clip])[0]["instances"], 1e-8)


def test_an_export_is_refused_in_one_sentence(tmp_path):
    cfg = tiny_cfg(YOLOV | {"MODEL.WEIGHTS": ""})
    with pytest.raises(UserError, match="'VideoOneStage', which cannot be exported: expected 'VideoRCNN'"):
        export_detector(cfg, tmp_path / "out", IMAGE_SIZE, form="torch")
    assert not (tmp_path / "out").exists()
