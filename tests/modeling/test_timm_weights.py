"""Backbones of timm in a training: the weights that it begins with, and the optimizer."""

import logging

import pytest
import torch
from torch import Tensor, nn

from helpers import accumulation
from helpers.contracts import losses_of_step
from helpers.models import make_targets, make_video, tiny_cfg
from helpers.streams import window_clip
from helpers.timm_models import DETECTORS, MODELS, TRANSFORMERS, make_backbone, named_as_timm
from vod2.d2 import build_model
from vod2.engine import VideoTrainer
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError
from vod2.modeling.timm_models import load_pretrained
from vod2.temporal import NoWindow

timm = pytest.importorskip("timm", reason="timm is not installed")


def write_weights(path, name: str = "test_convnext", options: dict | None = None) -> dict[str, Tensor]:
    """A file of timm's weights; returns them."""
    state = timm.create_model(name, **(options or {})).state_dict()
    torch.save(state, path)
    return state


def begin(keys: dict) -> nn.Module:
    """A backbone as a new training has it."""
    model = make_backbone(MODELS["ConvNeXt"] | keys, seed=1)
    load_pretrained(model)
    return model


def test_a_file_of_timms_weights_is_what_a_new_training_begins_with(tmp_path):
    path = tmp_path / "convnext.pth"
    state = write_weights(path)
    loaded = named_as_timm(begin({"MODEL.TIMM.WEIGHTS": str(path)}).model.state_dict())
    assert all(value.equal(state[name]) for name, value in loaded.items())
    drawn = named_as_timm(begin({}).model.state_dict())
    assert not all(value.equal(loaded[name]) for name, value in drawn.items())


@pytest.mark.parametrize("name", [*MODELS, *TRANSFORMERS])
def test_every_model_begins_with_a_file_of_its_weights(tmp_path, name):
    keys = DETECTORS[name]
    write_weights(tmp_path / "timm.pth", keys["MODEL.TIMM.NAME"], dict(keys.get("MODEL.TIMM.OPTIONS", [])))
    model = build_model(tiny_cfg(DETECTORS[name] | {"MODEL.TIMM.WEIGHTS": str(tmp_path / "timm.pth")}))
    before = [parameter.clone() for parameter in model.backbone.bottom_up.parameters()]
    load_pretrained(model)
    after = list(model.backbone.bottom_up.parameters())
    assert any(not first.equal(second) for first, second in zip(before, after, strict=True))


def test_a_training_goes_on_without_the_file_and_a_model_is_built_without_it(tmp_path):
    path = tmp_path / "convnext.pth"
    write_weights(path)
    keys = DETECTORS["ConvNeXt"] | {"MODEL.TIMM.WEIGHTS": str(path), "TEST.EVAL_PERIOD": 0}
    with accumulation.registered_videos(tmp_path):
        cfg = accumulation.config(tmp_path, keys)
        first = VideoTrainer(cfg)
        first.resume_or_load()
        stem = first.model.backbone.bottom_up.model.state_dict()["stem_0.weight"]
        assert stem.equal(torch.load(path)["stem.0.weight"])
        first.train()
        path.unlink()
        VideoTrainer(cfg).resume_or_load(resume=True)
        with pytest.raises(UserError, match="where no file is"):
            VideoTrainer(cfg).resume_or_load(resume=False)


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no network\nhere")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    with pytest.raises(UserError) as error:
        begin({"MODEL.TIMM.PRETRAINED": True})
    said = "weights of test_convnext could not be downloaded (OSError: no network here): give a file"
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_does_not_fit_is_named(tmp_path):
    path = str(tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"MODEL.TIMM.WEIGHTS is '{path}', where no file is"):
        begin({"MODEL.TIMM.WEIGHTS": path})
    torch.save({"stem.0.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=f"'{path}', which test_convnext does not load"):
        begin({"MODEL.TIMM.WEIGHTS": path})


@pytest.mark.parametrize("kept", ["none", "half"])
def test_a_file_that_lacks_parameters_is_refused(tmp_path, kept):
    path = tmp_path / "other.pth"
    state = write_weights(path)
    names = list(state)[: len(state) // 2] if kept == "half" else []
    torch.save({name: state[name] for name in names} | {"embeddings.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"there are no weights for \d+ parameters of test_convnext, such as s"):
        begin({"MODEL.TIMM.WEIGHTS": str(path)})


def test_frozen_normalisation_without_weights_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        for keys in (MODELS["ResNet"] | {"MODEL.TIMM.FREEZE_NORM": False}, MODELS["ConvNeXt"]):
            load_pretrained(make_backbone(keys).train())
        assert not caplog.records
        load_pretrained(make_backbone(MODELS["ResNet"]).train())
    assert "no weights are loaded: BatchNorm keeps a mean of 0" in caplog.text


# The optimizer


@pytest.mark.parametrize("name", DETECTORS)
def test_an_update_changes_what_learns_and_tables_of_positions_do_not_decay(name):
    cfg = tiny_cfg(DETECTORS[name] | {"SOLVER.OPTIMIZER": "AdamW", "SOLVER.WEIGHT_DECAY": 0.05})
    model = build_model(cfg).train()
    optimizer = build_video_optimizer(cfg, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert decay.keys() == {id(parameter) for parameter in learning.values()}
    undecayed = [name for name in learning if name.endswith(("relative_position_bias_table", "pos_embed", "cls_token"))]
    assert bool(undecayed) == (name in ("Swin", *TRANSFORMERS))
    assert all(decay[id(learning[name])] == 0 for name in undecayed)
    before = {name: parameter.clone() for name, parameter in learning.items()}
    clip = window_clip(make_video(1), 0, NoWindow()) | {"instances": make_targets()}
    sum(losses_of_step(model, [clip]).values()).backward()
    optimizer.step()
    assert not any(parameter.isnan().any() for parameter in learning.values())
    assert any(not before[name].equal(parameter) for name, parameter in learning.items() if "bottom_up" in name)
