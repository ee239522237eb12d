"""From a file and overrides to a configuration."""

import logging
from pathlib import Path

import pytest
import torch

from helpers.models import ROOT
from vod2 import UserError
from vod2.engine import load_config

CONFIG = str(ROOT / "configs" / "quick" / "RDN.yaml")


def one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


ELSEWHERE = ("suites", "ablations")  # no configurations: lists of them (tests/ablation, test_paper_rows.py)
CONFIGURATIONS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in ELSEWHERE)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_configuration_of_the_repository_loads(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == "VideoRCNN"


def test_defaults_then_file_then_overrides():
    assert load_config("").VIDEO.TEST_SCHEDULE.NAME == "NoWindow"
    assert load_config(CONFIG).VIDEO.TEST_SCHEDULE.NAME == "SlidingWindow"
    assert load_config(CONFIG, ["VIDEO.TEST_SCHEDULE.NAME", "Keyframes"]).VIDEO.TEST_SCHEDULE.NAME == "Keyframes"


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(UserError) as error:
        load_config("configs/nowhere.yaml")
    assert "configs/nowhere.yaml" in one_sentence(error)


@pytest.mark.parametrize(
    "text",
    [
        "MODEL:\n  RDM:\n    ADVANCED: True\n",
        "MODEL:\n  RDN:\n    ADVANCED: 'very'\n",
        "- a\n- list\n",
        "MODEL: [\n",
        "",
    ],
    ids=["unknown key", "wrong type", "a list", "broken YAML", "empty"],
)
def test_a_file_with_mistakes_is_named_in_one_sentence(tmp_path: Path, text):
    path = tmp_path / "mistake.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert str(path) in one_sentence(error)


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path):
    path = tmp_path / "mistake.yaml"
    path.write_text("MODEL:\n  RDM:\n    ADVANCED: True\n")
    with pytest.raises(UserError, match="MODEL.RDM"):
        load_config(str(path))


def test_a_base_file_that_does_not_exist_is_named(tmp_path: Path):
    path = tmp_path / "child.yaml"
    path.write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(UserError, match="nowhere.yaml"):
        load_config(str(path))


@pytest.mark.parametrize(
    "overrides, named",
    [
        (["MODEL.RDN.DEPTH", "3"], "DEPTH"),
        (["MODEL.RDN.NUM_BASIC", "many"], "many"),
        (["MODEL.RDN.NUM_BASIC"], "MODEL.RDN.NUM_BASIC"),
    ],
    ids=["unknown key", "wrong type", "no value"],
)
def test_a_mistake_in_the_overrides_is_named_in_one_sentence(overrides, named):
    with pytest.raises(UserError) as error:
        load_config(CONFIG, overrides)
    assert named in one_sentence(error)


def test_without_a_gpu_the_cpu_is_taken_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, logger="vod2"):
        assert load_config("", ["MODEL.DEVICE", "cuda:0"]).MODEL.DEVICE == "cpu"
    assert "no GPU found" in caplog.text


def test_with_a_gpu_the_device_stays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_config("", ["MODEL.DEVICE", "cuda:0"]).MODEL.DEVICE == "cuda:0"
    assert load_config("", ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"
