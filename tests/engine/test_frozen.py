"""A training with MODEL.FREEZE "detector"."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import accumulation
from helpers.models import build_detector
from vod2.d2 import CfgNode
from vod2.engine import VideoTrainer
from vod2.errors import UserError
from vod2.modeling.freezing import is_of_aggregator

KEYS = {
    "MODEL.FREEZE": "detector",
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "MODEL.RDN.ADVANCED": False,  # whose pool would be a single proposal here
    "SOLVER.MAX_ITER": 3,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # whose rates do not depend on MAX_ITER
    "SOLVER.STEPS": (),
    "TEST.EVAL_PERIOD": 0,
}


@pytest.fixture(scope="module", autouse=True)
def videos(tmp_path_factory):
    with accumulation.registered_videos(tmp_path_factory.mktemp("videos")):
        yield


@pytest.fixture
def detector(tmp_path) -> str:
    """Weights of an image detector."""
    path = tmp_path / "detector.safetensors"
    save_file(build_detector().state_dict(), path)
    return str(path)


def config(folder, **keys: object) -> CfgNode:
    return accumulation.config(folder, KEYS | {key.replace("__", "."): value for key, value in keys.items()})


def train(cfg: CfgNode, resume: bool = False) -> VideoTrainer:
    torch.manual_seed(0)  # the initial weights of the aggregator
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_after_three_steps_only_the_aggregator_has_changed(tmp_path, detector, caplog):
    with caplog.at_level(logging.INFO, logger="vod2.engine"):
        trainer = train(config(tmp_path / "out", MODEL__WEIGHTS=detector))
    before, after = load_file(detector), load_file(tmp_path / "out" / "output" / "model_final.safetensors")
    assert all(after[name].equal(value) for name, value in before.items())
    torch.manual_seed(0)
    begun = VideoTrainer.build_model(config(tmp_path / "other")).state_dict()
    learned = [name for name in after if is_of_aggregator(name)]
    assert after.keys() == before.keys() | {*learned}
    for name in learned:
        # Adding the same to all keys changes no relation
        assert name.endswith("key.bias") or not after[name].equal(begun[name]), name
    in_optimizer = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    wanted = {id(p) for name, p in trainer.model.named_parameters() if is_of_aggregator(name)}
    assert in_optimizer == wanted
    assert "MODEL.FREEZE is 'detector'" in caplog.text and "(roi_heads.aggregator)" in caplog.text


def test_a_training_resumes_with_the_same_bits(tmp_path, detector):
    whole = train(config(tmp_path / "whole", MODEL__WEIGHTS=detector, SEED=1))
    train(config(tmp_path / "parts", MODEL__WEIGHTS=detector, SEED=1, SOLVER__MAX_ITER=2))
    resumed = train(config(tmp_path / "parts", MODEL__WEIGHTS=detector, SEED=1), resume=True)
    assert resumed.start_iter == 2
    state = resumed.model.state_dict()
    assert all(state[name].equal(value) for name, value in whole.model.state_dict().items())
    with pytest.raises(UserError, match="MODEL.FREEZE is '', but the training in .* has 'detector'"):
        train(config(tmp_path / "parts", MODEL__FREEZE="", SOLVER__MAX_ITER=4), resume=True)


def test_a_detector_that_would_stay_random_is_refused(tmp_path, detector):
    with pytest.raises(UserError, match="MODEL.FREEZE is 'detector', but MODEL.WEIGHTS is empty"):
        train(config(tmp_path / "none", MODEL__WEIGHTS=""))
    other = load_file(detector)
    del other["proposal_generator.rpn_head.conv.bias"]
    other["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(3)
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="2 of .* tensors of the detector are not in .*rpn_head.conv.bias"):
        train(config(tmp_path / "some", MODEL__WEIGHTS=str(tmp_path / "other.safetensors")))
