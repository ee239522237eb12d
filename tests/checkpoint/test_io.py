"""Weights for detection: all of them, or one sentence that says what is wrong."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vod2 import UserError
from vod2.checkpoint import load_weights, require_weights


def make_model(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def save(path: Path, content) -> str:
    torch.save(content, path)
    return str(path)


def refusal(model: nn.Module, path: str) -> str:
    """The message of the UserError, which must be one sentence and name the file."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(model, path)
    message = str(error.value)
    assert path in message and "\n" not in message and len(message) < 500
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "the model was changed"
    return message


@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_fill_the_model(tmp_path, wrapped):
    source, model = make_model(), make_model()
    nn.init.normal_(source[0].weight)
    state = source.state_dict()
    load_weights(model, save(tmp_path / "weights.pth", {"model": state, "iteration": 3} if wrapped else state))
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_more_than_the_model_needs_does_no_harm(tmp_path):
    model, state = make_model(), make_model().state_dict()
    load_weights(model, save(tmp_path / "weights.pth", {"model": state | {"head.weight": torch.zeros(1)}}))


def test_the_weights_of_a_detector_with_more_parts_are_a_warning_that_names_them(tmp_path, caplog):
    state = {f"detector.{name}": value for name, value in make_model().state_dict().items()}
    model = nn.ModuleDict({"detector": make_model()})
    state["roi_heads.aggregator.query.weight"] = torch.zeros(3, 3)
    path = str(tmp_path / "weights.safetensors")
    save_file(state, path, {"vod2.config": "published/RDN_R101.yaml"})
    load_weights(model, path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    # 6 weights, 3 biases, 4 x 3 of the normalisation, and the 9 that are too many
    assert path in warning and "roi_heads (30.0% of their numbers)" in warning
    assert "converted for published/RDN_R101.yaml" in warning


def test_a_number_or_two_too_many_is_no_warning(tmp_path, caplog):
    model = nn.Linear(100, 100)
    load_weights(model, save(tmp_path / "weights.pth", model.state_dict() | {"head.scale": torch.zeros(2)}))
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_an_empty_path_keeps_the_initial_weights_and_warns(caplog):
    model = make_model()
    before = model[0].weight.clone()
    with caplog.at_level(logging.WARNING, logger="vod2.checkpoint"):
        load_weights(model, "")
    assert model[0].weight.equal(before) and "random weights" in caplog.text


def test_a_file_that_does_not_exist(tmp_path):
    assert "MODEL.WEIGHTS" in refusal(make_model(), str(tmp_path / "nowhere.pth"))


def test_a_folder_is_not_a_file(tmp_path):
    refusal(make_model(), str(tmp_path))


def test_the_weights_of_a_model_with_other_parameters(tmp_path):
    path = save(tmp_path / "weights.pth", {"model": nn.Linear(2, 3).state_dict()})
    message = refusal(make_model(), path)
    assert "another model" in message and "6 of 6 parameters are missing" in message and "0.bias" in message


def test_the_weights_of_a_model_of_another_width(tmp_path):
    path = save(tmp_path / "weights.pth", {"model": make_model(4).state_dict()})
    message = refusal(make_model(3), path)
    assert "'0.weight' has the shape (4, 2), expected (3, 2)" in message


def test_a_file_that_was_cut_off(tmp_path):
    path = tmp_path / "weights.pth"
    save(path, {"model": make_model().state_dict()})
    path.write_bytes(path.read_bytes()[:-200])
    refusal(make_model(), str(path))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"<html>404</html>"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    refusal(make_model(), str(path))


def test_a_file_of_something_else_than_parameters(tmp_path):
    refusal(make_model(), save(tmp_path / "list.pth", [1, 2, 3]))
    refusal(make_model(), save(tmp_path / "number.pth", {"model": 3}))


def test_an_address_that_cannot_be_had_is_one_sentence():
    with pytest.raises(UserError) as error:
        require_weights("https://localhost:9/weights.pth")
    message = str(error.value)
    assert "cannot be downloaded" in message and "\n" not in message and "MODEL.WEIGHTS" in message


def test_no_weights_and_weights_that_are_there_pass(tmp_path):
    require_weights("")
    require_weights(save(tmp_path / "weights.pth", {}))
