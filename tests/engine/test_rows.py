"""Rows of papers' tables in one file: what they are as configurations, and what is said of mistakes in them."""

import logging
from argparse import Namespace
from pathlib import Path

import pytest

from helpers.models import ROOT
from vod2.engine import load_config, setup
from vod2.engine.row_tables import row_description, row_listing
from vod2.engine.rows import config_name, find_row, find_test_setting, has_rows, load_rows, resolve_rows, split_row
from vod2.errors import UserError

BASE = """
OUTPUT_DIR: output/Base
MODEL: {WEIGHTS: start.pth, RDN: {NUM_BASIC: 2}}
"""
ROWS = """
prefix: Paper
tables:
  Table 1:
    what: Modules
    base: Base.yaml
    rows:
      one: {what: one module, paper: {mAP: 79.4}, overrides: {MODEL.RDN.NUM_BASIC: 1}}
      two: {what: two modules, kind: same, paper: {mAP: 80.0, FPS: 5}}
      narrow: {what: one module of few heads, base: one, overrides: {MODEL.VIDEO.RELATION.NUM_HEADS: 4}}
  Table 2:
    what: In inference
    kind: test
    base: one
    rows:
      T3: {what: T = 3, overrides: {VIDEO.TEST_SCHEDULE.RADIUS: 3}}
      T3_linked: {what: T = 3 and Seq-NMS, base: T3, overrides: {MODEL.VIDEO.LINKER.NAME: SeqNMS}}
      other: {what: of another file, base: "other.yaml:X", overrides: {VIDEO.TEST_SCHEDULE.RADIUS: 4}}
"""
OTHER = """
prefix: Other
tables:
  Table 1: {what: x, rows: {X: {what: x, base: Base.yaml, overrides: {MODEL.WEIGHTS: own.pth}}}}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "Base.yaml").write_text(BASE)
    (tmp_path / "other.yaml").write_text(OTHER)
    (tmp_path / "paper.yaml").write_text(ROWS)
    return tmp_path / "paper.yaml"


def test_a_row_that_is_trained_has_its_own_folder_and_begins_as_its_base(rows):
    cfg = load_config(f"{rows}:one")
    assert (cfg.MODEL.RDN.NUM_BASIC, cfg.MODEL.WEIGHTS) == (1, "start.pth")
    assert cfg.OUTPUT_DIR == "output/ablations/Paper_one"


def test_a_row_of_a_row_has_the_keys_of_both(rows):
    cfg = load_config(f"{rows}:narrow")
    assert (cfg.MODEL.RDN.NUM_BASIC, cfg.MODEL.VIDEO.RELATION.NUM_HEADS) == (1, 4)
    assert (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR) == ("start.pth", "output/ablations/Paper_narrow")


def test_a_row_that_is_its_base_is_that_configuration(rows):
    assert load_config(f"{rows}:two") == load_config(str(rows.with_name("Base.yaml")))


@pytest.mark.parametrize("name, trained", [("T3", "Paper_one"), ("T3_linked", "Paper_one"), ("other", "Other_X")])
def test_a_test_setting_has_the_final_weights_of_the_training_below_it(rows, name, trained):
    cfg = load_config(f"{rows}:{name}")
    assert cfg.MODEL.WEIGHTS == f"output/ablations/{trained}/model_final.pth"
    assert cfg.OUTPUT_DIR == f"output/ablations/Paper_{name}"


def test_the_command_line_comes_after_the_row(rows):
    cfg = load_config(f"{rows}:T3", ["VIDEO.TEST_SCHEDULE.RADIUS", "5", "MODEL.WEIGHTS", "mine.pth"])
    assert (cfg.VIDEO.TEST_SCHEDULE.RADIUS, cfg.MODEL.WEIGHTS) == (5, "mine.pth")


def test_only_a_test_setting_is_none_to_train(rows):
    found = {name: find_test_setting(f"{rows}:{name}") for name in load_rows(rows).rows}
    assert {name for name, row in found.items() if row} == {"T3", "T3_linked", "other"}
    assert find_test_setting(rows.with_name("Base.yaml")) is None


def test_a_colon_that_names_no_row_is_part_of_the_path():
    assert split_row("s3://bucket/a.yaml") == ("s3://bucket/a.yaml", None)
    assert split_row("a.yaml:T3") == ("a.yaml", "T3") and split_row("") == ("", None)
    assert find_row("anything.yaml") is None and not has_rows("nowhere.yaml")
    assert config_name("configs/paper.yaml:T3") == "paper:T3"


def test_a_file_of_rows_alone_is_no_configuration(rows):
    with pytest.raises(UserError, match=r"holds rows: name one for a configuration, such as .*paper.yaml:one"):
        load_config(str(rows))


def test_an_unknown_row_is_named_with_those_that_there_are(rows):
    with pytest.raises(UserError, match="paper.yaml has no row 'T4': expected one of one, two, narrow, T3"):
        load_config(f"{rows}:T4")


def test_what_had_a_file_of_its_own_is_named_in_its_new_form(rows):
    with pytest.raises(UserError, match=r"Paper_T3.yaml' does not exist: it is a row of a file now, .*paper.yaml:T3"):
        load_config(str(rows.with_name("Paper_T3.yaml")))
    with pytest.raises(UserError, match="Paper_T4.yaml' does not exist: give a file"):
        load_config(str(rows.with_name("Paper_T4.yaml")))


def test_rows_that_are_bases_of_each_other_are_refused(rows):
    rows.write_text(ROWS.replace("what: one module,", "what: one module, base: narrow,"))
    with pytest.raises(UserError, match="its bases lead back to itself"):
        resolve_rows(f"{rows}:one")


def test_an_unknown_key_is_named_with_its_row(rows):
    rows.write_text(ROWS.replace("MODEL.RDN.NUM_BASIC: 1", "MODEL.RDN.NUMBER: 1"))
    with pytest.raises(UserError, match="paper.yaml:one.*MODEL.RDN.NUMBER"):
        load_config(f"{rows}:one")
    rows.write_text(ROWS.replace("MODEL.RDN.NUM_BASIC: 1", "MODEL.RDN.NUM_BASIC: many"))
    with pytest.raises(UserError, match="paper.yaml:one.*many"):
        load_config(f"{rows}:one")


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("prefix: Paper", "praefix: Paper", "the file: unknown key 'praefix': expected some of prefix, tables"),
        ("prefix: Paper\n", "", "the file: it has no prefix"),
        ("kind: same", "kind: equal", "row two: kind is 'equal', expected one of train, test, same"),
        ("kind: same", "kind: same, overrides: {SEED: 1}", "row two: it is the same as its base, but has overrides"),
        (", overrides: {VIDEO.TEST_SCHEDULE.RADIUS: 3}", "", "row T3: a test setting needs overrides"),
        ("mAP: 79.4", "mAP: many", "row one: paper has 'many', expected a number"),
        ("mAP: 79.4", "AP: 79.4", "row one: paper: unknown key 'AP'"),
        ("base: T3", "base: T4", "row T3_linked: base 'T4' is neither a file beside this one nor one of its rows one"),
        ("what: Modules", "what: 5", "Table 1: what: got 5, expected text"),
        ("      T3_linked:", "      T3:", "line .*'T3' stands there twice"),
        ("      T3_linked:", "      one:", "row one: there are two rows of this name"),
        ("      T3:", "      no:", "the name of a row: got False, expected text: put quotes"),
        ("{what: T = 3, overrides: {VIDEO.TEST_SCHEDULE.RADIUS: 3}}", "3", "row T3: got 3, expected a mapping"),
        ("overrides: {MODEL.RDN.NUM_BASIC: 1}", "overrides: [1]", r"row one: overrides: got \[1\], expected a mapping"),
        ("{MODEL.RDN.NUM_BASIC: 1}", "{MODEL: {RDN: {NUM_BASIC: 1}}}", "row one: overrides have 'MODEL', a node"),
        ("{MODEL.RDN.NUM_BASIC: 1}", "{MODEL.RDN: 1, MODEL.RDN.NUM_BASIC: 1}", "row one: .*'MODEL.RDN', a node"),
        ("tables:", "tables: [", "paper.yaml: while parsing"),
    ],
)
def test_a_mistake_in_a_file_of_rows_is_named_with_its_place(rows, before, after, message):
    assert before in ROWS
    rows.write_text(ROWS.replace(before, after, 1))
    with pytest.raises(UserError, match=message) as error:
        load_rows(rows)
    assert str(rows) in str(error.value) and "\n" not in str(error.value)


def test_the_listing_has_every_row_with_its_run_and_the_papers_numbers(rows):
    lines = row_listing(load_rows(rows)).splitlines()
    assert lines[:3] == ["### Table 1: Modules", "", "| row | what | run | mAP | frames a second |"]
    assert "| one | one module | training, a variant of Base | 79.4 |  |" in lines
    assert "| two | two modules | is Base | 80.0 | 5 |" in lines
    assert "| T3_linked | T = 3 and Seq-NMS | test of T3 |" in lines
    assert "| other | of another file | test of other:X |" in lines


def test_a_row_is_described_with_what_differs_and_its_command(rows):
    lines = row_description(load_rows(rows).rows["T3"]).splitlines()
    assert lines[1:] == [
        "test of one",
        "VIDEO.TEST_SCHEDULE.RADIUS 3",
        f"python tools/train_net.py --config-file {rows}:T3 --eval-only",
    ]
    assert "--num-gpus" in row_description(load_rows(rows).rows["one"])
    assert "train_net" not in row_description(load_rows(rows).rows["two"])


def test_a_run_of_a_row_begins(rows, tmp_path):
    """Detectron2 opens the file of --config-file to print it."""
    loggers = {name: logging.getLogger(name).handlers[:] for name in ("vod2", "detectron2", "fvcore")}
    cfg = load_config(f"{rows}:T3", ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"])
    try:
        setup(cfg, Namespace(config_file=f"{rows}:T3", opts=[], eval_only=True))
    finally:
        for name, handlers in loggers.items():
            logging.getLogger(name).handlers[:] = handlers
    assert load_config(str(tmp_path / "out" / "config.yaml")).VIDEO.TEST_SCHEDULE.RADIUS == 3


def test_a_row_of_the_repository_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config(f"{ROOT}/configs/ablations/rdn.yaml:T3").VIDEO.TEST_SCHEDULE.RADIUS == 3
