"""Costs of detectors, one by one and as tables beside what papers print."""

import pytest

from helpers.models import ROOT
from helpers.modules import load_module
from vod2.engine.row_costs import CostMeter, RowCost, cost_table, tables_of
from vod2.engine.rows import load_rows
from vod2.errors import UserError

TINY = """
prefix: Tiny
tables:
  Table 1:
    what: Frames
    kind: test
    base: "{root}/configs/quick/RDN.yaml"
    rows:
      T1: {{what: T = 1, paper: {{mAP: 80.0, FPS: 20, M: 1.5}}, overrides: {{VIDEO.TEST_SCHEDULE.RADIUS: 1}}}}
      T2: {{what: T = 2, paper: {{mAP: 81.0, ms: 75.0}}, overrides: {{VIDEO.TEST_SCHEDULE.RADIUS: 2}}}}
      again: {{what: as T2, paper: {{mAP: 81.0}}, overrides: {{VIDEO.TEST_SCHEDULE.RADIUS: 2}}}}
      linked: {{what: linked, paper: {{ms: 90.0}}, overrides: {{MODEL.VIDEO.LINKER.NAME: SeqNMS}}}}
  Table 2:
    what: Without a cost
    rows:
      Nb1: {{what: one, base: "{root}/configs/quick/RDN.yaml", paper: {{mAP: 80.0}}}}
"""


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY.format(root=ROOT))
    return load_rows(tmp_path / "tiny.yaml")


@pytest.fixture(scope="module")
def tool():
    return load_module(ROOT / "tools" / "analyze_model.py")


def test_tables_are_named_by_number_or_are_those_that_print_a_cost(rows):
    assert tables_of(rows, []) == ["Table 1"]
    assert tables_of(rows, ["2", "Table 1"]) == ["Table 2", "Table 1"]
    with pytest.raises(UserError, match="tiny.yaml has no table '3': expected some of Table 1, Table 2"):
        tables_of(rows, ["3"])


def test_where_no_table_prints_a_cost_one_must_be_named():
    with pytest.raises(UserError, match="no table of .*selsa.yaml prints a cost: name some of Results"):
        tables_of(load_rows(ROOT / "configs" / "ablations" / "selsa.yaml"), [])


def test_a_table_has_the_papers_numbers_beside_those_here(rows):
    costs = [RowCost(1_250_000, 2e9, 0.1), RowCost(1_250_000, 3e9, 0.15), RowCost(1, 3e9, 0.15), RowCost(1, 3e9, None)]
    table = cost_table(rows.of("Table 1"), costs)
    lines = [[word.strip() for word in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0][:6] == ["row", "what", "mAP, paper", "M, paper", "ms, paper", "x first, paper"]
    assert lines[0][6:] == ["M", "GFLOP", "ms", "x first"]
    assert lines[2] == ["T1", "T = 1", "80.0", "1.5", "50.0", "1.00", "1.250", "2.00", "100.0", "1.00"]  # 20 a second
    assert lines[3] == ["T2", "T = 2", "81.0", "", "75.0", "1.50", "1.250", "3.00", "150.0", "1.50"]
    assert lines[5] == ["linked", "linked", "", "", "90.0", "1.80", "0.000", "3.00", "", ""]


def test_rows_of_one_detector_in_one_window_are_measured_once_and_linking_takes_no_time(rows):
    told = []
    meter = CostMeter((64, 96), overrides=["MODEL.DEVICE", "cpu"], progress=told.append)
    one, two, again, linked = (meter.measure(row) for row in rows.of("Table 1"))
    assert [line.rpartition(":")[2] for line in told] == ["T1", "T2", "linked"]
    assert again == two and two.flops > one.flops and two.parameters == one.parameters
    assert one.seconds > 0 and linked.seconds is None


def test_the_tool_prints_a_table(rows, tool, capsys):
    words = ["--table", str(rows.path), "1", "--no-time", "--size", "64", "96", "--opts", "MODEL.DEVICE", "cpu"]
    tool.main(words)
    printed = capsys.readouterr().out
    assert "Table 1: Frames\n64 x 96 pixels, 2 operations per multiply-add\n" in printed
    assert "| T2 | T = 2 | 81.0 |" in printed and "| ms |" not in printed


def test_the_tool_prints_the_time_of_a_frame_of_one_detector(tool, capsys):
    tool.main(
        ["--config-file", str(ROOT / "configs/quick/LSTS.yaml"), "--size", "64", "96", "--opts", "MODEL.DEVICE", "cpu"]
    )
    assert "ms a frame on CPU" in capsys.readouterr().out.splitlines()[-1]
