"""MODEL.LEGACY.INCLUSIVE_BOXES against loops that follow the older convention as it is told, +1 by +1."""

import pytest
import torch

from helpers.models import IMAGE_SIZE, build_detector, make_targets, make_video, tiny_cfg
from helpers.proposals import random_boxes
from reference import inclusive_boxes as reference
from vod2.d2 import Boxes, EventStorage, FrozenBatchNorm2d, Instances, build_model, pairwise_iou
from vod2.layers import PreciseBoxTransform, clip_boxes, half_open, inclusive
from vod2.modeling.legacy import LegacyConventions
from vod2.structures import PreciseBoxes

KEYS = {
    "MODEL.LEGACY.INCLUSIVE_BOXES": True,
    "MODEL.ANCHOR_GENERATOR.NAME": "RoundedAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
}


def boxes_of_old(count: int, seed: int) -> torch.Tensor:
    return random_boxes(count, torch.Generator().manual_seed(seed))


def test_a_box_with_its_last_pixel_is_half_open_one_further_and_comes_back():
    boxes = torch.tensor([[0.0, 2.0, 15.0, 2.0]], dtype=torch.float64)  # 16 by 1 pixels
    assert half_open(boxes).tolist() == [[0.0, 2.0, 16.0, 3.0]]
    assert inclusive(half_open(boxes)).equal(boxes)
    assert inclusive(boxes, (2.0, 0.5)).tolist() == [[0.0, 2.0, 13.0, 1.5]]


def test_iou_and_decoding_of_half_open_boxes_are_those_with_plus_one():
    a, b = boxes_of_old(6, 0), boxes_of_old(7, 1)
    found = pairwise_iou(PreciseBoxes(half_open(a)), PreciseBoxes(half_open(b)))
    expected = torch.tensor([[reference.iou(x, y) for y in b.tolist()] for x in a.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    deltas = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = inclusive(PreciseBoxTransform(weights=(1.0,) * 4).apply_deltas(deltas, half_open(a)))
    expected = [reference.decode(d, box) for d, box in zip(deltas.tolist(), a.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_clipping_leaves_a_pixel_of_a_box_outside():
    boxes = torch.tensor(
        [[-9.0, -9.0, -3.0, -2.0], [70.0, 10.0, 99.0, 20.0], [3.0, -4.0, 12.0, 80.0]], dtype=torch.float64
    )
    expected = [reference.clip(box, 60, 50) for box in boxes.tolist()]
    assert inclusive(clip_boxes(half_open(boxes), (60, 50), inclusive_boxes=True)).tolist() == expected
    assert expected[0] == [0, 0, 0, 0] and expected[1] == [49, 10, 49, 20]


@pytest.mark.parametrize("scale", [1, 2.5])
def test_the_detections_of_a_frame_are_those_of_the_old_code(scale):
    model = build_detector(KEYS, dtype=torch.float64)
    (image,) = make_video(1)
    height, width = int(IMAGE_SIZE[0] * scale), int(IMAGE_SIZE[1] * scale)
    seen = {}
    predictor, pooler = model.roi_heads.box_predictor, model.roi_heads.box_pooler
    pooler.register_forward_pre_hook(lambda _, inputs: seen.update(boxes=inputs[1][0].tensor))
    predictor.register_forward_hook(lambda _, __, output: seen.update(scores=output[0], deltas=output[1]))
    found = model([{"image": image, "height": height, "width": width}])[0]["instances"]
    weights = torch.tensor(predictor.box2box_transform.weights, dtype=torch.float64)
    expected = reference.detections(
        seen["boxes"],
        seen["scores"].softmax(dim=1),
        seen["deltas"].unflatten(1, (-1, 4)) / weights,
        IMAGE_SIZE,
        predictor.test_score_thresh,
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    )
    assert len(found) == len(expected) > 10
    assert found.pred_classes.tolist() == [label for label, _, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for _, score, _ in expected], dtype=torch.float64))
    boxes = torch.tensor([box for _, _, box in expected], dtype=torch.float64)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes * scale)


def test_a_stream_a_clip_and_unscaled_instances_have_the_same_boxes():
    model = build_detector(KEYS)
    clip = {"image": make_video(1)[0], "height": IMAGE_SIZE[0], "width": IMAGE_SIZE[1]}
    scaled = model([clip])[0]["instances"]
    (unscaled,) = model.inference([clip], do_postprocess=False)
    assert len(scaled) > 0 and scaled.pred_boxes.tensor.equal(unscaled.pred_boxes.tensor)
    assert (scaled.pred_boxes.tensor.max(dim=0).values <= torch.tensor([95.0, 63.0, 95.0, 63.0])).all()


def test_in_training_targets_are_read_in_the_old_convention_and_left_as_they_were():
    model = build_detector(KEYS).train()
    targets = make_targets()
    before = targets.gt_boxes.tensor.clone()
    seen = {}
    sample = model.proposal_generator.label_and_sample_anchors

    def label_and_sample(anchors, instances):
        seen["anchors"], seen["truth"] = anchors[0].tensor, instances[0].gt_boxes.tensor
        seen["matched"] = sample(anchors, instances)[1][0]
        return sample(anchors, instances)

    model.proposal_generator.label_and_sample_anchors = label_and_sample
    with EventStorage():
        losses = model([{"image": make_video(1)[0], "instances": targets, "video_id": "v", "frame_index": 0}])
    assert all(loss.isfinite() for loss in losses.values())
    assert targets.gt_boxes.tensor.equal(before) and inclusive(seen["truth"]).equal(before)
    anchors = inclusive(seen["anchors"])
    labels = reference.rpn_labels(anchors, before, 0.7, 0.3)
    for row in (labels == 1).nonzero()[:, 0].tolist():
        best = max(before.tolist(), key=lambda box, row=row: reference.iou(anchors[row].tolist(), box))
        assert inclusive(seen["matched"])[row].tolist() == best


def test_supports_with_instances_are_converted_too():
    clip = {
        "image": make_video(1)[0],
        "instances": make_targets(),
        "support": [{"image": make_video(1)[0], "frame_index": 1, "instances": make_targets()}],
    }
    done = LegacyConventions(inclusive_boxes=True).training_input(clip)
    for one, old in ((done, clip), (done["support"][0], clip["support"][0])):
        assert inclusive(one["instances"].gt_boxes.tensor).equal(old["instances"].gt_boxes.tensor)
        assert one["instances"].gt_classes.equal(old["instances"].gt_classes)
    empty = Instances(IMAGE_SIZE, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    assert len(LegacyConventions(inclusive_boxes=True).training_input({"instances": empty})["instances"]) == 0


def test_the_eps_of_the_frozen_normalisation_is_a_key():
    keys = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.LEGACY.FROZEN_BN_EPS": 1e-20}
    model = build_model(tiny_cfg(keys)).double()
    norms = [module for module in model.backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    norms[0].running_var.fill_(1)
    x = torch.randn(2, norms[0].num_features, 3, 3, dtype=torch.float64)
    assert norms[0](x).equal(x)  # with 1e-5, less by 5e-6 of it


def test_in_float64_the_mean_of_the_pixels_is_not_rounded():
    mean = [102.9801, 115.9465, 122.7717]
    model = build_model(tiny_cfg({"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": [57.12, 58.395, 1.1]})).double()
    images = model.preprocess_image([{"image": torch.full((3, 4, 4), 200, dtype=torch.uint8)}]).tensor
    expected = [(200 - m) / s for m, s in zip(mean, [57.12, 58.395, 1.1], strict=True)]
    assert images[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-15)


def test_anchors_that_end_with_the_image_are_trained_as_in_the_old_code():
    boxes = torch.tensor([[536.0, 536.0, 599.0, 599.0], [536.0, 536.0, 600.0, 599.0], [-1.0, 0.0, 62.0, 63.0]])
    targets = Instances((600, 600), gt_boxes=Boxes(torch.zeros(0, 4)))
    keys = {"MODEL.RPN.BOUNDARY_THRESH": 0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 8}
    rpn = build_detector(KEYS | keys).proposal_generator
    (labels,), _ = rpn.label_and_sample_anchors([PreciseBoxes(half_open(boxes))], [targets])
    assert labels.tolist() == [0, -1, -1]  # there: x1 >= 0 and x2 < 600


def test_statistics_of_pixels_that_were_changed_are_kept():
    model = build_model(tiny_cfg({"MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]})).double()
    model.pixel_mean.fill_(7.5)
    model.preprocess_image([{"image": torch.zeros(3, 4, 4, dtype=torch.uint8)}])
    assert model.pixel_mean.unique().tolist() == [7.5]
