"""The stand-in and Detectron2 agree: the same configuration, weights, detections, losses and gradients."""

import pytest
import torch

import vod2._d2lite.config as lite_config
import vod2._d2lite.modeling as lite_modeling
import vod2._d2lite.structures as lite_structures
import vod2._d2lite.utils.events as lite_events
from helpers.d2_options import DC5, FPN, NARROW

REASON = "Detectron2 is not installed: there is nothing to agree with"
d2_config = pytest.importorskip("detectron2.config", reason=REASON)
d2_modeling = pytest.importorskip("detectron2.modeling", reason=REASON)
d2_structures = pytest.importorskip("detectron2.structures", reason=REASON)
d2_events = pytest.importorskip("detectron2.utils.events", reason=REASON)
model_zoo = pytest.importorskip("detectron2.model_zoo", reason=REASON)

BACKENDS = (
    (d2_config, d2_modeling, d2_structures, d2_events),
    (lite_config, lite_modeling, lite_structures, lite_events),
)

COMMON = {
    **NARROW,
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 500,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 500,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
}
CASES = {
    "c4": {},
    "dc5": DC5,
    "fpn": FPN,
    "resnext": {
        **DC5,
        "MODEL.RESNETS.NUM_GROUPS": 2,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "resnet18": {
        **DC5,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES5_DILATION": 1,
    },
    "giou": {**FPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou"},
    "options": {
        **FPN,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.FPN.NORM": "LN",
        "MODEL.FPN.FUSE_TYPE": "avg",
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
        "MODEL.RPN.CONV_DIMS": [-1, 8],
        "MODEL.RPN.BOUNDARY_THRESH": 0,
        "MODEL.RPN.SMOOTH_L1_BETA": 0.5,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 2,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
        "MODEL.ROI_BOX_HEAD.NORM": "GN",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False,
    },
}


def plain(node):
    return {key: plain(value) for key, value in node.items()} if isinstance(node, dict) else node


def build_both(name):
    models = []
    for config, modeling, _, _ in BACKENDS:
        cfg = config.get_cfg()
        cfg.merge_from_list([part for item in {**COMMON, **CASES[name]}.items() for part in item])
        torch.manual_seed(1)
        models.append(modeling.build_model(cfg))
    return models


def shuffle_weights(theirs, ours):
    """Give both the same weights, far enough from initialization that scores and boxes vary."""
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for key, value in theirs.state_dict().items():
        weights[key] = value.clone()
        if key.endswith("running_var"):
            weights[key] = torch.rand(value.shape, generator=generator) + 0.5
        elif key.endswith(("anchor_deltas.weight", "bbox_pred.weight")):
            weights[key] *= 3
    theirs.load_state_dict(weights)
    ours.load_state_dict(weights)


def make_inputs(structures):
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for size, boxes, classes in (((96, 128), [[10.0, 12, 60, 70], [30.0, 5, 80, 90]], [1, 3]), ((110, 90), [], [])):
        instances = structures.Instances(size)
        instances.gt_boxes = structures.Boxes(torch.tensor(boxes).view(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.long)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "height": size[0] * 2, "width": size[1] * 2, "instances": instances})
    return inputs


def test_the_default_configurations_are_equal():
    assert plain(lite_config.get_cfg()) == plain(d2_config.get_cfg())


@pytest.mark.parametrize("backbone", ["R_50_C4_1x", "R_50_DC5_3x", "R_50_FPN_1x", "X_101_32x8d_FPN_3x"])
def test_a_published_file_gives_equal_configurations(backbone):
    path = model_zoo.get_config_file(f"COCO-Detection/faster_rcnn_{backbone}.yaml")
    merged = []
    for config, *_ in BACKENDS:
        cfg = config.get_cfg()
        cfg.merge_from_file(path)
        merged.append(plain(cfg))
    assert merged[0] == merged[1]


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_have_equal_names_order_and_shapes(name):
    theirs, ours = build_both(name)
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    trained = [[key for key, p in model.named_parameters() if p.requires_grad] for model in (theirs, ours)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_draws_the_same_weights(name):
    theirs, ours = build_both(name)
    expected = theirs.state_dict()
    assert [key for key, value in ours.state_dict().items() if not value.equal(expected[key])] == []


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_give_the_same_detections(name):
    models = build_both(name)
    shuffle_weights(*models)
    with torch.no_grad():
        theirs, ours = (model.eval()(make_inputs(b[2])) for model, b in zip(models, BACKENDS, strict=True))
    for expected, actual in zip(theirs, ours, strict=True):
        expected, actual = expected["instances"], actual["instances"]
        assert len(expected) == 100 and actual.image_size == expected.image_size
        torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)
        torch.testing.assert_close(actual.scores, expected.scores, atol=1e-5, rtol=0)
        assert actual.pred_classes.tolist() == expected.pred_classes.tolist()


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_give_the_same_losses_gradients_and_logged_values(name):
    models = build_both(name)
    shuffle_weights(*models)
    results = []
    for model, (_, _, structures, events) in zip(models, BACKENDS, strict=True):
        torch.manual_seed(5)
        with events.EventStorage() as storage:
            losses = model.train()(make_inputs(structures))
            sum(losses.values()).backward()
            logged = {key: value for key, (value, _) in storage.latest().items()}
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients, logged))
    (their_losses, their_gradients, their_logged), (losses, gradients, logged) = results
    torch.testing.assert_close(losses, their_losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, their_gradients, atol=1e-4, rtol=1e-4)
    assert logged == pytest.approx(their_logged)
