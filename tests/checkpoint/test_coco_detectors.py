"""Detectors of COCO that others have trained compute the same here: torchvision's, and those of Detectron2's zoo.

Their weights are drawn; their classes are those of torchvision, of Detectron2, or of the stand-in.
"""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet101
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_Weights,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)

from helpers.coco_detectors import (
    NARROW,
    coco_cfg,
    draw_detector,
    pictures,
    torchvision_detector,
    torchvision_detector_v2,
)
from helpers.conversion import on_nothing, tool_main
from helpers.models import DOOR, ROOT
from vod2 import UserError
from vod2.checkpoint import Target, compare, convert, default_config, load_initial_weights, load_weights
from vod2.checkpoint.settings import differing
from vod2.coco import COCO_CLASSES, COCO_IDS
from vod2.d2 import Instances, build_model
from vod2.engine.class_names import class_names_of
from vod2.modeling import VideoRCNN

V1, V2 = "FasterRCNN_R50_FPN_torchvision", "FasterRCNN_R50_FPN_v2_torchvision"
SIZES = [(128, 160), (200, 128), (128, 128)]  # (height, width); p6 has 2 x 3, 4 x 2 and 2 x 2 cells
AGGREGATORS = ["RDN_R50_FPN", "SELSA_R50_FPN", "MEGA_R50_FPN", "HVRNet_R50_FPN"]


def detect(model: FasterRCNN, picture: Tensor) -> dict[str, Tensor]:
    """What torchvision's detector says of (3, H, W) uint8 RGB."""
    with torch.no_grad():
        return model([picture / 255])[0]


def detect_here(model: nn.Module, picture: Tensor) -> Instances:
    with torch.no_grad():
        return model([{"image": picture.flip(0)}])[0]["instances"]  # RGB to BGR


def converted(theirs: FasterRCNN, config: str) -> VideoRCNN:
    cfg = coco_cfg(config, *NARROW)
    model = build_model(cfg).eval()
    done = convert(theirs.state_dict(), "torchvision", Target.of(cfg, model))
    report = compare(model, done.state, "torchvision")
    assert report.share == 1 and not report.unused and not done.unused
    model.load_state_dict(done.state, strict=False)
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[FasterRCNN, VideoRCNN]:
    """torchvision's detector, and what the converter makes of its state dict."""
    theirs = torchvision_detector(min_size=128, max_size=1000)
    (picture,) = pictures([(128, 128)], seed=1)
    draw_detector(theirs, lambda: detect(theirs, picture))
    return theirs, converted(theirs, V1)


AT_A_THRESHOLD = 2
"""Of 100 boxes, those without a partner: on another processor an overlap may round past the threshold of NMS."""


def assert_same_boxes(theirs: dict[str, Tensor], ours: Instances, pixels: float, scores: float) -> None:
    labels = torch.tensor([COCO_IDS.index(number) for number in theirs["labels"].tolist()])
    assert len(labels) == len(ours) == 100 and len(labels.unique()) > 10, "boxes of few classes prove little"
    same_label = labels[:, None] == ours.pred_classes
    same_box = ((theirs["boxes"][:, None] - ours.pred_boxes.tensor).abs() <= pixels).all(2)
    same_score = (theirs["scores"][:, None] - ours.scores).abs() <= scores
    same = same_label & same_box & same_score
    assert same.any(1).sum() >= 100 - AT_A_THRESHOLD and same.any(0).sum() >= 100 - AT_A_THRESHOLD


# torchvision


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_torchvisions_detector_gives_the_same_boxes_scores_and_labels(pair, size):
    theirs, ours = pair
    (picture,) = pictures([size])
    assert_same_boxes(detect(theirs, picture), detect_here(ours, picture), pixels=1e-3, scores=1e-4)


def test_its_second_version_gives_them_too():
    theirs = torchvision_detector_v2(min_size=128, max_size=1000)
    (picture,) = pictures([SIZES[0]])
    draw_detector(theirs, lambda: detect(theirs, picture))
    ours = converted(theirs, V2)
    assert_same_boxes(detect(theirs, picture), detect_here(ours, picture), pixels=1e-3, scores=1e-4)


def test_other_anchors_would_give_other_boxes(pair):
    """Otherwise the comparison would not see what the configuration is for."""
    theirs, ours = pair
    model = build_model(coco_cfg(V1, *NARROW, "MODEL.ANCHOR_GENERATOR.NAME", "PreciseAnchorGenerator")).eval()
    model.load_state_dict(ours.state_dict())
    (picture,) = pictures([SIZES[0]])
    with pytest.raises(AssertionError):
        assert_same_boxes(detect(theirs, picture), detect_here(model, picture), pixels=0.1, scores=0.1)


@pytest.mark.parametrize(
    "build, config", [(fasterrcnn_resnet50_fpn, V1), (fasterrcnn_resnet50_fpn_v2, V2)], ids=["v1", "v2"]
)
def test_torchvisions_own_models_have_the_names_of_the_narrow_ones(build, config):
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None).state_dict()
    narrow = torchvision_detector_v2() if config == V2 else torchvision_detector()
    learned = {name for name in theirs if not name.endswith("num_batches_tracked")}
    assert learned == {name for name in narrow.state_dict() if not name.endswith("num_batches_tracked")}
    assert default_config(theirs, "torchvision") == f"COCO/{config}.yaml"


def test_rows_of_ids_that_no_category_has_are_dropped():
    rows = torch.arange(91.0)
    state = {"roi_heads.box_predictor.cls_score.weight": rows[:, None], "roi_heads.box_predictor.cls_score.bias": rows}
    state["roi_heads.box_predictor.bbox_pred.bias"] = rows.repeat_interleave(4)
    state["backbone.body.conv1.weight"] = torch.ones(1, 3, 1, 1)
    done = convert(state, "torchvision")
    found = done.state["roi_heads.box_predictor.cls_score.bias"].tolist()
    assert found[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13] and found[79:] == [90, 0]
    assert done.state["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [
        number for number in COCO_IDS for _ in range(4)
    ]
    assert "ids without a category dropped" in done.table()


def test_a_detector_of_90_other_classes_keeps_them_all():
    rows = torch.arange(91.0)
    state = {"roi_heads.box_predictor.cls_score.bias": rows, "roi_heads.box_predictor.cls_score.weight": rows[:, None]}
    state |= {"roi_heads.box_predictor.bbox_pred.bias": rows.repeat_interleave(4)}
    state |= {"backbone.body.conv1.weight": torch.ones(1, 3, 1, 1)}
    done = convert(state, "torchvision", Target(classes=90)).state
    assert done["roi_heads.box_predictor.cls_score.bias"].tolist() == [*range(1, 91), 0]
    assert len(done["roi_heads.box_predictor.bbox_pred.bias"]) == 4 * 90


def test_weights_of_torchvision_tell_what_another_pyramid_needs():
    cfg = coco_cfg("FasterRCNN_R50_FPN")
    state = {name: torch.ones(1) for name in ("backbone.body.bn1.bias", "roi_heads.box_predictor.cls_score.weight")}
    told = differing(cfg, convert(state, "torchvision", Target(pyramid=True)).settings)
    assert told[told.index("MODEL.ANCHOR_GENERATOR.NAME") + 1] == "TorchvisionAnchorGenerator"
    assert {"MODEL.ROI_BOX_HEAD.POOLER_TYPE", "INPUT.RESIZE_TRUNCATES", "MODEL.RESNETS.STRIDE_IN_1X1"} <= {*told}


def test_the_tool_converts_the_whole_detector(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(pair[0].state_dict(), "coco.pth")
    config = str(ROOT / "configs" / "COCO" / f"{V1}.yaml")
    words = ["--from", "torchvision", "coco.pth", "out.safetensors", "--config-file", config]
    tool_main()([*words, "--opts", *map(str, NARROW)])
    printed = capsys.readouterr().out
    assert "295 of 295 tensors, 100.0% of the numbers" in printed and "--eval-only" in printed
    model = build_model(coco_cfg(V1, *NARROW)).eval()
    load_weights(model, "out.safetensors")
    assert differing(coco_cfg(V1), convert(pair[0].state_dict(), "torchvision", Target(pyramid=True)).settings) == []
    assert model.state_dict()["roi_heads.box_head.fc2.bias"].equal(pair[0].state_dict()["roi_heads.box_head.fc7.bias"])


# Detectron2's zoo


def zoo_detector(config: str, *options: object) -> nn.Module:
    """The backend's own GeneralizedRCNN of a configuration, narrow, its weights drawn."""
    model = build_model(coco_cfg(config, *NARROW, *options, *(word for pair in DOOR.items() for word in pair)))
    (picture,) = pictures([(128, 128)], seed=1)
    draw_detector(model, lambda: detect_here(model, picture))
    return model


def write_zoo_file(model: nn.Module, path: Path) -> None:
    """As the files of the zoo are: arrays, the name of the author, and buffers that later versions do not save."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4).numpy()
    arrays["pixel_mean"] = torch.zeros(3, 1, 1).numpy()
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))


SMALL_DC5 = [
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.RPN.CONV_DIMS", [32]),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 1000, "MODEL.RPN.POST_NMS_TOPK_TEST", 300),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> tuple[nn.Module, str]:
    """The backend's own detector with a pyramid, and its file."""
    model, path = zoo_detector("FasterRCNN_R50_FPN"), tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    write_zoo_file(model, path)
    return model, str(path)


def assert_same_here(theirs: nn.Module, config: str, path: str, *options: object) -> None:
    ours = build_model(coco_cfg(config, *NARROW, *options)).eval()
    load_weights(ours, path)
    for picture in pictures(SIZES[:2]):
        wanted, found = detect_here(theirs, picture), detect_here(ours, picture)
        assert len(wanted) == 100 and len(wanted.pred_classes.unique()) > 10
        assert found.pred_classes.tolist() == wanted.pred_classes.tolist()
        torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)


def test_a_detector_of_the_zoo_loads_by_name_and_gives_the_same_boxes(zoo):
    assert_same_here(zoo[0], "FasterRCNN_R50_FPN", zoo[1])


def test_one_without_a_pyramid_does_so_too(tmp_path):
    theirs = zoo_detector("FasterRCNN_R50_DC5", *SMALL_DC5)
    write_zoo_file(theirs, tmp_path / "model_final.pkl")
    assert_same_here(theirs, "FasterRCNN_R50_DC5", str(tmp_path / "model_final.pkl"), *SMALL_DC5)


@pytest.mark.parametrize("config", ["FasterRCNN_R50_FPN", "FasterRCNN_R101_DC5"])
def test_the_configuration_of_a_file_of_the_zoo_is_known(config):
    assert default_config(on_nothing(f"COCO/{config}.yaml").state_dict(), "detectron2") == f"COCO/{config}.yaml"


# The layers between which an aggregator stands


@pytest.mark.parametrize("config", AGGREGATORS)
def test_an_aggregator_begins_with_the_second_layer_of_the_detectors_head(config, zoo, caplog):
    theirs, path = zoo
    model = build_model(coco_cfg(config, *NARROW)).eval()
    with caplog.at_level(logging.INFO, logger="vod2.checkpoint"):
        report = load_initial_weights(model, path)
    layer, weights = "roi_heads.aggregator.transform.0", theirs.state_dict()
    assert model.state_dict()[f"{layer}.weight"].equal(weights["roi_heads.box_head.fc2.weight"])
    assert all(name.startswith("roi_heads.aggregator.") for name in report.new)
    assert all("cell_anchors" in name for name in report.unused)
    assert f"roi_heads.box_head.fc2.weight is {layer}.weight here" in caplog.text
    done = convert(weights, "detectron2", Target.of(coco_cfg(config, *NARROW), model))
    assert done.state[f"{layer}.bias"].equal(weights["roi_heads.box_head.fc2.bias"])
    if config != "HVRNet_R50_FPN":  # which has further layers, that begin anew
        assert_is_the_detector(model, theirs)


def test_the_first_of_several_aggregators_gets_it_too(zoo):
    theirs, path = zoo
    model = build_model(
        coco_cfg("RDN_R50_FPN", *NARROW, "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME", "RDNAggregator+RDNAggregator")
    )
    load_initial_weights(model, path)
    second = theirs.state_dict()["roi_heads.box_head.fc2.weight"]
    assert model.state_dict()["roi_heads.aggregator.parts.0.transform.0.weight"].equal(second)


def assert_is_the_detector(model: VideoRCNN, detector: nn.Module) -> None:
    """Without supports the aggregator is what the second layer of the head is."""
    (picture,) = pictures(SIZES[:1])
    wanted, found = detect_here(detector, picture), detect_here(model, picture)
    best = (wanted.scores > 0.5).nonzero()[:, 0]
    assert len(best) > 20 and found.pred_classes[best].tolist() == wanted.pred_classes[best].tolist()
    torch.testing.assert_close(found.pred_boxes.tensor[best], wanted.pred_boxes.tensor[best], rtol=0, atol=1e-3)


# Classes


def test_coco_has_80_categories_with_ids_up_to_90():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == len(COCO_IDS) == 80
    assert dict(zip(COCO_IDS, COCO_CLASSES, strict=True))[64] == "potted plant" and COCO_IDS[-1] == 90
    theirs = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [theirs[number] for number in COCO_IDS] == list(COCO_CLASSES)


@pytest.mark.parametrize("config", ["FasterRCNN_R50_FPN", V1, *AGGREGATORS])
def test_a_detector_of_coco_knows_the_names_of_its_classes(config):
    assert class_names_of(coco_cfg(config, "MODEL.WEIGHTS", "")) == list(COCO_CLASSES)


def test_a_faster_rcnn_of_torchvision_on_another_resnet_needs_a_configuration():
    with torch.device("meta"):
        state = {f"backbone.body.{name}": value for name, value in resnet101().state_dict().items()}
    state["roi_heads.box_predictor.cls_score.weight"] = torch.ones(91, 2)
    with pytest.raises(UserError, match="torchvision on R101, of which none comes with it"):
        default_config(state, "torchvision")
