"""The rows of all papers: they load and build, what they begin with exists, and the READMEs name the same ones."""

import re
from functools import cache

import pytest
import torch

from helpers.models import ROOT
from vod2.d2 import CfgNode, build_model
from vod2.engine import load_config
from vod2.engine.row_tables import row_listing
from vod2.engine.rows import TRAIN, load_rows
from vod2.keys import unread_keys
from vod2.modeling import build_box_linker
from vod2.temporal import build_support_schedule, build_training_schedule

FILES = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))
PAPERS = {path.stem: load_rows(path) for path in FILES}
ROWS = {f"{paper}:{name}": row for paper, rows in PAPERS.items() for name, row in rows.rows.items()}


@cache
def configuration(name: str) -> CfgNode:
    """Of a row; nobody changes it."""
    return load_config(str(ROWS[name]), ["MODEL.DEVICE", "meta"])


@cache
def built(model: str) -> bool:
    """Whether the model of a dump of MODEL is built; those of test settings are mostly one."""
    cfg = load_config("", ["MODEL.DEVICE", "meta"])
    cfg.MODEL = CfgNode.load_cfg(model)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg).parameters()) > 10_000_000


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_a_detector_with_its_schedules_and_linker(name):
    cfg = configuration(name).clone()
    assert build_support_schedule(cfg) and build_training_schedule(cfg)
    assert (build_box_linker(cfg) is None) == (cfg.MODEL.VIDEO.LINKER.NAME == "")
    cfg.MODEL.WEIGHTS = ""
    assert built(cfg.MODEL.dump())


@pytest.mark.parametrize("name", ROWS)
def test_no_row_sets_a_key_in_vain(name):
    assert unread_keys(configuration(name)) == []


def test_weights_that_a_row_begins_with_are_left_by_a_configuration_or_a_row():
    files = [path for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("Base")]
    left = {f"{load_config(str(path), ['MODEL.DEVICE', 'cpu']).OUTPUT_DIR}/model_final.pth" for path in files}
    left |= {f"{configuration(name).OUTPUT_DIR}/model_final.pth" for name, row in ROWS.items() if row.kind == TRAIN}
    begins = {name: configuration(name).MODEL.WEIGHTS for name in ROWS}
    unknown = {name: path for name, path in begins.items() if path.startswith("output/") and path not in left}
    assert not unknown


def test_no_two_rows_share_a_folder():
    folders = [row.output for row in ROWS.values()]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_readme_has_the_rows_of_the_file(paper):
    text = (ROOT / "projects" / paper / "README.md").read_text()
    assert row_listing(PAPERS[paper]) in text, (
        f"put what `python tools/show_config.py configs/ablations/{paper}.yaml` prints into projects/{paper}/README.md"
    )


@pytest.mark.parametrize(
    "paper, table, cells",
    [
        *(("rdn", f"Table {number}", cells) for number, cells in ((2, 7), (3, 4), (4, 8), (5, 5), (6, 8), (7, 8))),
        *(("hvrnet", f"Table {number}", cells) for number, cells in ((2, 2), (3, 2), (4, 3), (5, 5))),
        *(("lsts", f"Table {number}", cells) for number, cells in ((2, 15), (3, 3), (4, 4))),
        *(("mst", f"Table {number}", cells) for number, cells in (("III", 7), ("IV", 2), ("V", 5))),
        *(("mst", f"Table {number}", cells) for number, cells in (("VI", 5), ("VII", 5), ("VIII", 2), ("IX", 2))),
    ],
)
def test_no_cell_of_a_papers_table_is_missing(paper, table, cells):
    """Counted in the papers, without methods that are not here; 15 are (a) to (g) twice and the single frame."""
    assert sum("mAP" in row.paper for row in PAPERS[paper].of(table)) == cells


@pytest.mark.parametrize(
    "paper, pattern, key, unit",
    [
        ("rdn", r"T(\d+)", "VIDEO.TEST_SCHEDULE.RADIUS", 1),
        ("rdn", r"Nb([1-9])", "MODEL.RDN.NUM_BASIC", 1),
        ("rdn", r"K(\d+)", "MODEL.VIDEO.SUPPORT_TOPK", 1),
        ("rdn", r"r(\d+)", "MODEL.RDN.ADVANCED_RATIO", 0.01),
        ("hvrnet", r"Test(\d+)", "VIDEO.TEST_SCHEDULE.COUNT", 1),
        ("mst", r"K(\d+)", "MODEL.MST.TOPK", 1),
        ("mst", r"r(\d+)", "MODEL.MST.RATIO", 0.01),
    ],
)
def test_a_row_has_the_value_that_its_name_and_its_line_say(paper, pattern, key, unit):
    named = {name: match for name in PAPERS[paper].rows if (match := re.fullmatch(pattern, name))}
    assert len(named) >= 4
    for name, match in named.items():
        value = configuration(f"{paper}:{name}")
        for part in key.split("."):
            value = value[part]
        assert value == pytest.approx(int(match[1]) * unit)
        assert match[1] in re.findall(r"\d+", PAPERS[paper].rows[name].what)
