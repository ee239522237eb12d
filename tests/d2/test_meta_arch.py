"""The whole detector: parameter names, input and output, empty images, precision."""

import copy

import pytest
import torch

from helpers.d2_options import DC5, FPN, NARROW
from vod2._d2lite.config import get_cfg as get_lite_cfg
from vod2._d2lite.modeling import build_model as build_lite_model
from vod2._d2lite.modeling import detector_postprocess as lite_postprocess
from vod2._d2lite.structures import Boxes as LiteBoxes
from vod2._d2lite.structures import Instances as LiteInstances
from vod2._d2lite.utils.events import EventStorage as LiteEventStorage
from vod2.d2 import Boxes, EventStorage, GeneralizedRCNN, Instances, build_model, detector_postprocess, get_cfg

SMALL = {
    **NARROW,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
}
DETECTORS = {"c4": {}, "fpn": FPN, "dc5": DC5}


def configure(cfg, *options):
    for option in options:
        cfg.merge_from_list([part for item in option.items() for part in item])
    return cfg


def build(name, *options):
    torch.manual_seed(0)
    return build_model(configure(get_cfg(), SMALL, DETECTORS[name], *options))


def image_input(boxes=None, size=(64, 80), boxes_class=Boxes, instances_class=Instances):
    generator = torch.Generator().manual_seed(3)
    item = {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
    if boxes is not None:
        classes = torch.zeros(len(boxes), dtype=torch.long)
        item["instances"] = instances_class(
            size, gt_boxes=boxes_class(torch.tensor(boxes).view(-1, 4)), gt_classes=classes
        )
    return item


BOXES = [[5.0, 5.0, 40.0, 50.0], [20.0, 10.0, 75.0, 60.0]]

CHECKPOINT_SHAPES = {
    "c4": {
        "backbone.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.stem.conv1.norm.running_var": (64,),
        "backbone.res2.0.shortcut.weight": (256, 64, 1, 1),
        "backbone.res3.3.conv2.weight": (128, 128, 3, 3),
        "backbone.res4.5.conv3.norm.bias": (1024,),
        "proposal_generator.rpn_head.conv.weight": (1024, 1024, 3, 3),
        "proposal_generator.rpn_head.objectness_logits.weight": (15, 1024, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas.bias": (60,),
        "roi_heads.res5.0.shortcut.norm.weight": (2048,),
        "roi_heads.res5.2.conv3.weight": (2048, 512, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": (81, 2048),
        "roi_heads.box_predictor.bbox_pred.weight": (320, 2048),
    },
    "dc5": {
        "backbone.res5.0.conv1.weight": (512, 1024, 1, 1),
        "proposal_generator.rpn_head.conv.weight": (1024, 1024, 3, 3),
        "roi_heads.box_head.fc1.weight": (1024, 2048 * 49),
        "roi_heads.box_head.fc2.bias": (1024,),
        "roi_heads.box_predictor.cls_score.bias": (81,),
    },
    "fpn": {
        "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.bottom_up.res5.2.conv3.weight": (2048, 512, 1, 1),
        "backbone.fpn_lateral2.weight": (256, 256, 1, 1),
        "backbone.fpn_lateral5.bias": (256,),
        "backbone.fpn_output5.weight": (256, 256, 3, 3),
        "proposal_generator.rpn_head.objectness_logits.weight": (3, 256, 1, 1),
        "roi_heads.box_head.fc1.weight": (1024, 256 * 49),
        "roi_heads.box_predictor.bbox_pred.bias": (320,),
    },
}
CHECKPOINT_LENGTHS = {"c4": 275, "dc5": 279, "fpn": 295}


@pytest.mark.parametrize("name", DETECTORS)
def test_parameters_are_named_and_shaped_as_in_checkpoints(name):
    with torch.device("meta"):
        model = GeneralizedRCNN(configure(get_cfg(), DETECTORS[name]))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: shapes.get(key) for key in CHECKPOINT_SHAPES[name]} == CHECKPOINT_SHAPES[name]
    assert len(shapes) == CHECKPOINT_LENGTHS[name]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("boxes", [[], BOXES])
def test_training_gives_four_finite_losses_and_gradients(name, boxes):
    model = build(name).train()
    with EventStorage():
        losses = model([image_input(boxes), image_input([], size=(70, 60))])
        sum(losses.values()).backward()
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_detections_are_in_pixels_of_the_original_image():
    model = build("fpn").eval()
    item = image_input()
    with torch.no_grad():
        small = model([{**item, "height": 64, "width": 80}])[0]["instances"]
        large = model([{**item, "height": 128, "width": 240}])[0]["instances"]
    assert large.image_size == (128, 240)
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * scale)
    torch.testing.assert_close(large.scores, small.scores)


def test_an_image_gives_the_same_detections_alone_and_in_a_batch():
    model = build("c4").eval()
    item = image_input(size=(64, 64))
    with torch.no_grad():
        alone = model.inference([item], do_postprocess=False)[0]
        beside = model.inference([item, image_input(size=(64, 64))], do_postprocess=False)[0]
    torch.testing.assert_close(alone.pred_boxes.tensor, beside.pred_boxes.tensor, atol=1e-3, rtol=0)


def test_images_are_normalized_then_padded_with_zeros():
    model = build("fpn")
    images = model.preprocess_image([{"image": torch.full((3, 33, 20), 160.53)}])
    assert images.tensor.shape == (1, 3, 64, 32)
    assert images.tensor[0, 0, :33, :20].mean().item() == pytest.approx(1.0, abs=1e-5)
    assert images.tensor[0, :, 33:].eq(0).all()
    assert images.image_sizes == [(33, 20)]


def test_no_detection_is_a_legal_result():
    model = build("fpn", {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0}).eval()
    with torch.no_grad():
        instances = model([image_input()])[0]["instances"]
    assert len(instances) == 0 and instances.image_size == (64, 80)


def test_given_proposals_replace_the_proposal_generator():
    model = build("dc5", {"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}).eval()
    assert model.proposal_generator is None
    proposals = Instances((64, 80), proposal_boxes=Boxes(torch.tensor(BOXES)), objectness_logits=torch.zeros(2))
    with torch.no_grad():
        instances = model([{**image_input(), "proposals": proposals}])[0]["instances"]
    assert len(instances) > 0


def test_postprocessing_scales_clips_and_drops_empty_boxes():
    boxes = Boxes(torch.tensor([[-2.0, 0.0, 5.0, 5.0], [12.0, 1.0, 15.0, 5.0]]))
    results = Instances((10, 10), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8]))
    output = detector_postprocess(results, 20, 40)
    assert output.pred_boxes.tensor.tolist() == [[0, 0, 20, 10]]
    assert output.scores.tolist() == pytest.approx([0.9])
    assert output.image_size == (20, 40)


def build_lite(name, *options):
    torch.manual_seed(0)
    return build_lite_model(configure(get_lite_cfg(), SMALL, DETECTORS[name], *options))


def lite_input(boxes=None):
    return image_input(boxes, boxes_class=LiteBoxes, instances_class=LiteInstances)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_stand_in_keeps_float64_throughout(name):
    model = build_lite(name).double().eval()
    with torch.no_grad():
        instances = model([lite_input()])[0]["instances"]
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float64
    with LiteEventStorage():
        losses = model.train()([lite_input(BOXES)])
    assert {loss.dtype for loss in losses.values()} == {torch.float64}


def test_the_stand_in_computes_boxes_and_losses_in_float32_under_autocast():
    model = build_lite("fpn").eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            instances = model([lite_input()])[0]["instances"]
        with LiteEventStorage():
            losses = model.train()([lite_input(BOXES)])
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()


def test_the_stand_in_postprocesses_without_changing_the_results_it_was_given():
    results = LiteInstances((10, 10), pred_boxes=LiteBoxes(torch.tensor([[0.0, 0.0, 5.0, 5.0]])))
    before = copy.deepcopy(results)
    lite_postprocess(results, 20, 40)
    assert results.pred_boxes.tensor.equal(before.pred_boxes.tensor)


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.MASK_ON", True),
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
        ("MODEL.RESNETS.DEFORM_MODULATED", True),
    ],
)
def test_the_stand_in_refuses_what_it_leaves_out(key, value):
    with pytest.raises(NotImplementedError, match=key):
        build_lite("fpn", {key: value})
