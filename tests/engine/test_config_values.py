"""One wrong value of a configuration: a sentence."""

import logging
import random

import numpy as np
import pytest
from PIL import Image

from helpers.loaders import forget
from helpers.models import ROOT
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.engine import VideoTrainer, load_config
from vod2.engine.config_values import building, check_values
from vod2.errors import UserError
from vod2.keys import default_config, leaves, value_of

TRIALS = 60  # of some thousand: each builds a trainer
KEPT = ("VERSION", "MODEL.DEVICE", "OUTPUT_DIR")


@pytest.fixture
def base(tmp_path):
    """RDN of the quick set, on two videos of two frames."""
    dicts = []
    for number in range(4):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path := tmp_path / f"{number}.png")
        elf = {"bbox": [8, 8, 28, 28], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "track_id": 1}
        record = {"file_name": str(path), "image_id": number, "height": 48, "width": 64, "annotations": [elf]}
        dicts.append(record | {"video_id": f"v{number // 2}", "frame_index": number % 2, "video_length": 2})
    DatasetCatalog.register("config_values", lambda: dicts)
    MetadataCatalog.get("config_values").set(thing_classes=["elf"], evaluator_type="vid")
    names = "('config_values',)"
    words = ["DATASETS.TRAIN", names, "DATASETS.TEST", names, "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.WEIGHTS", ""]
    words += ["SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    yield load_config(str(ROOT / "configs" / "quick" / "RDN.yaml"), [*words, "MODEL.DEVICE", "cpu"])
    forget("config_values")


def wrong_values(value) -> list:
    """Some of the kind of a value, and some of other kinds."""
    if isinstance(value, bool):
        return ["yes", None, ()]
    if isinstance(value, int):
        return [-1, 0, "x", 1.5, None, ()]
    if isinstance(value, float):
        return [float("nan"), -1.0, 0.0, float("inf"), "x", None, ()]
    if isinstance(value, str):
        return ["nonsense", "", 3, None, ()]
    kind = tuple if value is None else type(value)
    entries = [(), (0,), (-1,), ("a",), (None,), (float("nan"),), ((),), (0, 0, 0, 0)]
    return [kind(entry) for entry in entries] + ["x", 3]


def changed(cfg, key, value):
    cfg = cfg.clone()
    node, _, name = key.rpartition(".")
    (value_of(cfg, node) if node else cfg)[name] = value
    return cfg


def test_a_trainer_is_built_of_one_wrong_value_or_refuses_it_in_a_sentence(base):
    every = [(key, wrong) for key, value in leaves(base) if key not in KEPT for wrong in wrong_values(value)]
    # Others in each version of the configuration, the same in every run.
    trials = random.Random(len(every)).sample(every, TRIALS)
    logging.disable(logging.CRITICAL)
    try:
        refused = 0
        for key, value in trials:
            try:
                VideoTrainer(changed(base, key, value))
            except UserError as error:
                assert "Traceback" not in str(error)
                refused += 1
    finally:
        logging.disable(logging.NOTSET)
    assert refused > TRIALS / 4


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("SOLVER.BASE_LR", float("nan"), "a finite number"),
        ("SOLVER.BASE_LR", -0.1, "at least 0"),
        ("SOLVER.IMS_PER_BATCH", 0, "at least 1"),
        ("SOLVER.IMS_PER_BATCH", "many", "a number"),
        ("SOLVER.MAX_ITER", 1.5, "a whole number"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", "yes", "True or False"),
        ("INPUT.MIN_SIZE_TRAIN", (), "a list that is not empty"),
        ("INPUT.MIN_SIZE_TRAIN", (-128,), "at least 0"),
        ("INPUT.MIN_SIZE_TRAIN", ("a",), "a list of numbers"),
        ("INPUT.MAX_SIZE_TEST", -1, "at least 1"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [], "a list that is not empty"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[None]], "a list of numbers"),
        ("MODEL.RPN.IN_FEATURES", [3], "a list of names"),
        ("MODEL.RPN.NMS_THRESH", 7.0, "at most 1"),
        ("MODEL.BACKBONE.NAME", 3, "a text"),
        ("DATASETS.TRAIN", (3,), "a list of names"),
    ],
)
def test_a_value_that_nothing_can_be_built_of_is_named_with_its_key(key, value, expected):
    with pytest.raises(UserError) as error:
        check_values(changed(default_config(), key, value))
    assert str(error.value) == f"{key} is {value!r}, expected {expected}: fix it in the configuration"


def test_several_wrong_values_come_in_one_sentence():
    cfg = changed(changed(default_config(), "SOLVER.BASE_LR", float("nan")), "TEST.EVAL_PERIOD", -5)
    with pytest.raises(UserError, match="BASE_LR is nan.*; TEST.EVAL_PERIOD is -5, expected at least 0: fix them"):
        check_values(cfg)


def test_the_defaults_and_all_that_are_unset_pass():
    check_values(default_config())
    for key, value in [("SOLVER.WEIGHT_DECAY_BIAS", 0.1), ("SEED", -1), ("SOLVER.STEPS", ()), ("SOLVER.GAMMA", 1)]:
        check_values(changed(default_config(), key, value))


def test_what_a_component_refuses_names_it_and_the_key(base):
    with pytest.raises(UserError, match="^.*GeneralizedRCNN|VideoRCNN cannot be built.*MODEL.PIXEL_STD"):
        VideoTrainer(changed(base, "MODEL.PIXEL_STD", [1.5, 2.5]))
    with pytest.raises(UserError, match="'nonsense'.*check MODEL.ROI_HEADS.NAME"):
        VideoTrainer(changed(base, "MODEL.ROI_HEADS.NAME", "nonsense"))


@pytest.mark.parametrize(
    "message, expected",
    [
        # As Detectron2 shows two buffers; SOLVER.MAX_ITER, WARMUP_ITERS and others are within these numbers.
        ("tensor([[[57.1250]],\n [[2.5000]]]) has a different shape", "check MODEL.PIXEL_STD"),
        ("unknown pooler '57.125'", "check the keys that it is built of"),
        ("no 'res570'", "check the keys that it is built of"),
        ("Unknown norm 'GN57'", "check MODEL.RESNETS.NORM"),
        ("570 images", "check SOLVER.IMS_PER_BATCH"),
        ("between 1 and 5700, res570", "check the keys that it is built of"),
    ],
)
def test_a_value_stands_in_a_message_as_a_whole(message, expected):
    cfg = changed(changed(default_config(), "MODEL.PIXEL_STD", [57.125, 2.5]), "SOLVER.IMS_PER_BATCH", 570)
    cfg = changed(cfg, "MODEL.RESNETS.NORM", "GN57")
    with pytest.raises(UserError, match=rf"ValueError.*: {expected}( \(|$)"), building(cfg):
        raise ValueError(message)


def test_what_is_no_mistake_of_a_value_keeps_its_type():
    with pytest.raises(RuntimeError, match="out of memory"), building(default_config()):
        raise RuntimeError("out of memory")
