"""Means, deviations, intervals and tables, against numbers of textbooks and by hand."""

import math
from pathlib import Path

import pytest

from helpers.suites import QUICK, write_suite
from vod2.ablation import JobKey, load_suite, make_plan, paired_interval, render_report
from vod2.ablation.report import _t_quantile

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "freedom, expected",
    [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (11, 2.201), (20, 2.086), (30, 2.042), (120, 1.980)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, expected):
    assert _t_quantile(freedom) == pytest.approx(expected, abs=6e-4)


def test_the_interval_of_four_differences_by_hand():
    """1, 2, 3, 6: mean 3, squares of deviations 4 + 1 + 0 + 9 = 14, s = sqrt(14 / 3), t(.975, 3) = 3.1824."""
    half = 3.1824 * math.sqrt(14 / 3) / 2
    assert paired_interval([1, 2, 3, 6]) == pytest.approx((3, 3 - half, 3 + half))


@pytest.mark.parametrize("differences", [[], [1.0]])
def test_one_seed_has_no_interval(differences):
    assert paired_interval(differences) is None


@pytest.fixture
def plan(tmp_path):
    config = str(QUICK / "FasterRCNN.yaml")
    rows = [
        {"name": "single", "config": config},
        {"name": "RDN", "config": config, "base": "single", "contexts": ["own", "none"]},
    ]
    return make_plan(load_suite(write_suite(tmp_path, rows)), "tiny", [0, 1, 2], tmp_path / "out")


def table(text: str) -> list[list[str]]:
    """The cells of the lines below the headers."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_table_by_hand(plan):
    """Differences of RDN to single: 2, 4; of none to own: -1, -1, -1 (deviation 0)."""
    values = {
        ("single", "own"): {0: 50.0, 1: 52.0},
        ("RDN", "own"): {0: 52.0, 1: 56.0, 2: 60.0},
        ("RDN", "none"): {0: 51.0, 1: 55.0, 2: 59.0},
    }
    metrics = {
        JobKey(row, seed, context): {"synthetic_val": {"vid/AP50": value, "vid/AP50-fast": None}}
        for (row, context), found in values.items()
        for seed, value in found.items()
    }
    half = 12.7062 * math.sqrt(2) / math.sqrt(2)
    assert table(render_report(plan, metrics)) == [
        ["single", "own", "2", "51.00 (1.41)", "", "", ""],
        ["RDN", "own", "3", "56.00 (4.00)", "single", "+3.00", f"[{3 - half:+.2f}, {3 + half:+.2f}]"],
        ["RDN", "none", "3", "55.00 (4.00)", "own", "-1.00", "[-1.00, -1.00]"],
    ]


def test_one_seed_has_a_difference_without_interval_and_no_deviation(plan):
    metrics = {
        JobKey("single", 1, "own"): {"synthetic_val": {"vid/AP50": 1.0}},
        JobKey("RDN", 1, "own"): {"synthetic_val": {"vid/AP50": 3.0}},
    }
    assert table(render_report(plan, metrics)) == [
        ["single", "own", "1", "1.00", "", "", ""],
        ["RDN", "own", "1", "3.00", "single", "+2.00", ""],
    ]


def test_seeds_that_the_two_do_not_share_are_not_compared(plan):
    metrics = {
        JobKey("single", 0, "own"): {"synthetic_val": {"vid/AP50": 1.0}},
        JobKey("RDN", 1, "own"): {"synthetic_val": {"vid/AP50": 3.0}},
    }
    assert table(render_report(plan, metrics))[1] == ["RDN", "own", "1", "3.00", "", "", ""]


def test_a_metric_without_a_number_has_no_table(plan):
    metrics = {JobKey("single", 0, "own"): {"synthetic_val": {"vid/AP50": None}}}
    assert "Nothing is evaluated yet." in render_report(plan, metrics)


def test_gains_of_a_paper_stand_beside_differences_and_only_an_interval_without_0_has_a_direction(tmp_path):
    """Single 50, 51, 52; RDN and (c) are always 5 ahead, (b) 5 behind, (a) by -3, 0 and 3; their paper: .9."""
    rdn = ROOT / "configs" / "ablations" / "rdn.yaml"
    config = str(QUICK / "FasterRCNN.yaml")
    paper = {"paper_row": f"{rdn}:Advanced", "paper_baseline": f"{rdn}:Basic"}  # 81.8 and 80.9
    rows = [{"name": "single", "config": config, "contexts": ["own", "none"]}]
    rows += [{"name": name, "config": config, "base": "single"} | paper for name in ("RDN", "a", "b")]
    rows += [{"name": "c", "config": config, "base": "single"}]
    content = {"metrics": ["vid/AP50", "vid/AP75"]}
    plan = make_plan(load_suite(write_suite(tmp_path, rows, **content)), "tiny", [0, 1, 2], tmp_path / "out")
    ahead = {"single": (0, 0, 0), "RDN": (5, 5, 5), "a": (-3, 0, 3), "b": (-5, -5, -5), "c": (5, 5, 5)}
    metrics = {
        JobKey(row, seed, "own"): {"synthetic_val": {"vid/AP50": 50.0 + seed + by[seed], "vid/AP75": 1.0}}
        for row, by in ahead.items()
        for seed in range(3)
    }
    first, second = render_report(plan, metrics).split("AP75")
    assert "| in the paper" in first and "in the paper" not in second
    assert [line[-2:] for line in table(first)] == [
        ["", ""],
        ["+0.9", "as in the paper"],
        ["+0.9", "no difference shown"],
        ["+0.9", "not as in the paper"],
        ["", ""],
    ]
    one_seed = {key: value for key, value in metrics.items() if key.seed == 0}
    assert [line[-2:] for line in table(render_report(plan, one_seed).split("AP75")[0])][1] == ["+0.9", "one seed"]
