"""The configuration: defaults, YAML files, overrides, and classes that are built from it."""

import pytest
import yaml

from vod2._d2lite.config import get_cfg as get_lite_cfg
from vod2.d2 import CfgNode, configurable, get_cfg


class Square:
    @configurable
    def __init__(self, *, side, color="red"):
        self.side = side
        self.color = color

    @classmethod
    def from_config(cls, cfg, scale=1):
        return {"side": cfg.TEST.EVAL_PERIOD * scale}


DEFAULTS = {
    "VERSION": 2,
    "SEED": -1,
    "OUTPUT_DIR": "./output",
    "CUDNN_BENCHMARK": False,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": False,
    "MODEL.KEYPOINT_ON": False,
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MAX_SIZE_TEST": 1333,
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.STEPS": (30000,),
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.AMP.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.EVAL_PERIOD": 0,
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_key_has_its_documented_default(key):
    value = get_cfg()
    for part in key.split("."):
        value = value[part]
    assert value == DEFAULTS[key]


def test_two_configurations_share_nothing():
    first = get_cfg()
    first.MODEL.RPN.IOU_THRESHOLDS.append(0.9)
    assert get_cfg().MODEL.RPN.IOU_THRESHOLDS == [0.3, 0.7]


def test_a_file_is_merged_after_its_base(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text("SOLVER:\n  MAX_ITER: 7\n  GAMMA: 0.5\n")
    (tmp_path / "row.yaml").write_text("_BASE_: bases/base.yaml\nSOLVER:\n  MAX_ITER: 9\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "row.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA) == (9, 0.5)


def test_a_detectron2_box_detector_file_loads(tmp_path):
    (tmp_path / "faster_rcnn.yaml").write_text(
        "MODEL:\n"
        '  WEIGHTS: "detectron2://ImageNetPretrained/MSRA/R-50.pkl"\n'
        "  MASK_ON: False\n"
        "  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}\n"
        "  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}\n"
        'DATASETS:\n  TRAIN: ("coco_2017_train",)\n  TEST: ("coco_2017_val",)\n'
        "SOLVER:\n  STEPS: (60000, 80000)\n  MAX_ITER: 90000\n"
        "VERSION: 2\n"
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "faster_rcnn.yaml"))
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.SOLVER.STEPS == (60000, 80000)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]


def test_an_unknown_key_in_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "typo.yaml").write_text("SOLVER:\n  BASE_LRR: 0.1\n")
    with pytest.raises(KeyError, match="SOLVER.BASE_LRR"):
        get_cfg().merge_from_file(str(tmp_path / "typo.yaml"))


def test_a_value_of_another_type_is_an_error(tmp_path):
    (tmp_path / "type.yaml").write_text("SOLVER:\n  MAX_ITER: many\n")
    with pytest.raises(ValueError, match="MAX_ITER"):
        get_cfg().merge_from_file(str(tmp_path / "type.yaml"))


def test_a_list_of_overrides_is_merged():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.25", "DATASETS.TRAIN", "('a',)", "MODEL.RPN.IN_FEATURES", ["p2"]])
    assert (cfg.SOLVER.BASE_LR, cfg.DATASETS.TRAIN, cfg.MODEL.RPN.IN_FEATURES) == (0.25, ("a",), ["p2"])


def test_a_frozen_configuration_cannot_change_but_its_clone_can_after_defrost():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1
    clone = cfg.clone()
    clone.defrost()
    clone.SEED = 1
    assert cfg.SEED == -1


def test_a_dump_merges_back_to_the_same_configuration(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5, "INPUT.MIN_SIZE_TRAIN", (3, 4)])
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "dump.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.INPUT.MIN_SIZE_TRAIN == (3, 4)


def test_keys_can_be_added():
    cfg = get_cfg()
    cfg.MODEL.VIDEO = CfgNode({"WINDOW": 3})
    cfg.merge_from_list(["MODEL.VIDEO.WINDOW", 5])
    assert cfg.MODEL.VIDEO.WINDOW == 5


def test_a_configurable_class_is_built_from_arguments_or_from_a_configuration():
    cfg = get_cfg()
    cfg.TEST.EVAL_PERIOD = 4
    assert Square(side=2).side == 2
    assert Square(cfg).side == Square(cfg=cfg).side == 4


def test_arguments_beside_a_configuration_override_or_reach_from_config():
    cfg = get_cfg()
    cfg.TEST.EVAL_PERIOD = 4
    square = Square(cfg, color="blue", scale=3)
    assert (square.side, square.color) == (12, "blue")
    assert Square(cfg, side=1).side == 1


def test_a_configurable_function_is_called_with_arguments_or_with_a_configuration():
    @configurable(from_config=lambda cfg: {"period": cfg.TEST.EVAL_PERIOD})
    def double(period, extra=0):
        return 2 * period + extra

    cfg = get_cfg()
    cfg.TEST.EVAL_PERIOD = 4
    assert (double(1), double(cfg), double(cfg, extra=1)) == (2, 8, 9)


def test_a_configurable_class_without_from_config_cannot_be_built_from_a_configuration():
    class Incomplete:
        @configurable
        def __init__(self, *, side):
            self.side = side

    with pytest.raises((TypeError, AttributeError)):
        Incomplete(get_cfg())


@pytest.mark.parametrize(
    "text, error",
    [
        ("SOLVER:\n  BASE_LRR: 0.1\n", KeyError),
        ("SOLVER:\n  MAX_ITER: many\n", ValueError),
        ("SEED: !!python/object/apply:os.getpid []\n", ValueError),
        ("SEED: [1\n", ValueError),
        ("VERSION: 1\n", ValueError),
    ],
)
def test_the_stand_in_names_the_file_of_every_error_and_runs_none_of_it(tmp_path, text, error):
    (tmp_path / "row.yaml").write_text(text)
    with pytest.raises(error, match="row.yaml"):
        get_lite_cfg().merge_from_file(str(tmp_path / "row.yaml"))


def test_the_stand_in_names_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        get_lite_cfg().merge_from_file(str(tmp_path / "absent.yaml"))
