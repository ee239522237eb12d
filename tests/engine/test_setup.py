"""From a file and overrides to a configuration."""

import logging
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from helpers.models import ROOT
from vod2 import UserError
from vod2.engine import load_config, setup
from vod2.keys import unread_keys
from vod2.modeling import build_box_linker
from vod2.temporal import build_support_schedule, build_training_schedule

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
    assert cfg.MODEL.META_ARCHITECTURE in ("VideoRCNN", "VideoOneStage")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_configuration_of_the_repository_builds_its_schedules_and_linker(path):
    cfg = load_config(str(path))
    assert build_support_schedule(cfg) and build_training_schedule(cfg)
    assert (build_box_linker(cfg) is None) == (cfg.MODEL.VIDEO.LINKER.NAME == "")


BASES = ("Base", "Temporal")  # what these set, the configurations that are made of them read


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGURATIONS if not path.stem.startswith(BASES)],
    ids=lambda path: str(path.relative_to(ROOT / "configs")),
)
def test_no_configuration_of_the_repository_sets_a_key_in_vain(path):
    assert unread_keys(load_config(str(path))) == []


def warnings_of_run(folder: Path, *overrides: str) -> list[str]:
    """The lines of its log that speak of keys that are not read."""
    cfg = load_config(CONFIG, ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", *overrides])
    setup(cfg, Namespace(config_file=CONFIG, opts=[], eval_only=True))
    return [line for line in (folder / "log.txt").read_text().splitlines() if "set but not read" in line]


def test_a_run_begins_with_one_warning_of_the_keys_that_are_set_in_vain(tmp_path, kept_loggers):
    assert warnings_of_run(tmp_path / "plain") == []
    (line,) = warnings_of_run(tmp_path / "vain", "MODEL.ALIGNER.WIDTH", "64", "INPUT.SSD.HUE", "9.0")
    assert "MODEL.ALIGNER.WIDTH 64 (read when " in line and "INPUT.SSD.HUE 9.0 (read when " in line


@pytest.fixture
def kept_loggers():
    """What a run does to the loggers is undone after it."""
    loggers = [logging.getLogger(name) for name in ("vod2", "detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


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


@pytest.mark.parametrize(
    "text, message",
    [
        ("- MODEL\n- SOLVER\n", "is a list, expected keys and values"),
        ("MODEL", "is a text, expected keys and values"),
        ("7", "is 7, expected keys and values"),
        ("# nothing\n", "is empty, expected keys and values"),
        ("MODEL: " + "[" * 2000 + "]" * 2000, "is nested too deeply"),
        ("MODEL: " + "{a: " * 2000 + "1" + "}" * 2000, "is nested too deeply"),
        ("_BASE_: mistake.yaml\n", "_BASE_ is 'mistake.yaml', which leads back to this file"),
        ("_BASE_: other.yaml\n", "_BASE_ is 'mistake.yaml', which leads back to this file"),
        ("_BASE_: https://example.com/base.yaml\n", "expected a local file, for nothing is fetched unasked: download"),
        ("_BASE_: [other.yaml, 3]\n", "leads back to this file"),
        ("_BASE_: 3\n", "_BASE_ is 3, expected the path of a configuration file"),
        ("_BASE_: a\\b.yaml\n", "expected slashes instead of backslashes"),
        ("MODEL: !!python/object/apply:os.getcwd []\n", "is no YAML of keys and values"),
        ("? [a]\n: 1\n", "mistake.yaml"),
        ("a: 2024-13-45\n", "mistake.yaml"),
    ],
)
def test_what_is_no_mapping_of_local_files_is_refused(tmp_path: Path, text, message):
    (tmp_path / "other.yaml").write_text("_BASE_: mistake.yaml\n")
    (tmp_path / "mistake.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "mistake.yaml"))
    assert message in one_sentence(error) and str(tmp_path) in str(error.value)


def test_a_base_without_an_end_is_not_fetched(tmp_path: Path, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: pytest.fail("it is fetched"))
    (tmp_path / "child.yaml").write_text("_BASE_: s3://bucket/base.yaml\n")
    with pytest.raises(UserError, match="child.yaml: _BASE_ is 's3://bucket/base.yaml'"):
        load_config(str(tmp_path / "child.yaml"))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path):
    (tmp_path / "marked.yaml").write_text("SEED: 3\n", encoding="utf-8-sig")
    assert load_config(str(tmp_path / "marked.yaml")).SEED == 3


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


def test_a_base_may_be_the_name_of_a_configuration_that_comes_with_vod2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "_BASE_: quick/RDN.yaml\nSOLVER:\n  MAX_ITER: 7\nINPUT: {MIN_SIZE_TRAIN: [64]}\n"
    )
    (tmp_path / "longer.yaml").write_text("_BASE_: [mine.yaml]\nSOLVER: {BASE_LR: 0.5}\n")
    keys = ["SOLVER.MAX_ITER", "7", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    assert load_config("mine.yaml") == load_config("quick/RDN.yaml", keys)
    assert load_config("longer.yaml") == load_config("quick/RDN.yaml", [*keys, "SOLVER.BASE_LR", "0.5"])


def test_a_file_comes_before_a_configuration_of_that_name(tmp_path):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "RDN.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: quick/RDN.yaml\n")
    cfg = load_config(str(tmp_path / "mine.yaml"))
    assert cfg.SOLVER.MAX_ITER == 3 and cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME == ""


def test_mistakes_in_a_file_on_such_a_base_are_told_with_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    for text, told in (
        ("SOLVER: {MAX_ITERS: 7}", "Non-existent config key: SOLVER.MAX_ITERS"),
        ("SOLVER: {BASE_LR: {A: 1}}", "SOLVER.BASE_LR|mine.yaml"),
        ("SOLVER: [1]", "mine.yaml"),
    ):
        file.write_text(f"_BASE_: quick/RDN.yaml\n{text}\n")
        with pytest.raises(UserError, match=told) as caught:
            load_config(str(file))
        assert str(file) in str(caught.value)
