"""tools/benchmark.py: whole detectors and trainings side by side."""

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from helpers.models import ROOT
from vod2.errors import UserError

QUICK = ROOT / "configs" / "quick"
TOOL = ROOT / "tools" / "benchmark.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))


def test_detectors_are_measured_side_by_side(tool, tmp_path, capsys):
    out = tmp_path / "speed.json"
    configs = [str(QUICK / "FasterRCNN.yaml"), str(QUICK / "LSTS.yaml")]
    words = ["--config-file", *configs, "--size", "48x64", "--frames", "3", "--threads", "1", "--json", str(out)]
    tool.main(["detectors", *words])
    document = json.loads(out.read_text())
    single, lsts = document["rows"]
    assert [row["config"] for row in (single, lsts)] == configs
    assert single["ratio"] == 1 and single["frames"] == 3
    # Whole periods, for keyframes to have their share.
    assert lsts["frames"] % 10 == 0
    assert lsts["ratio"] == pytest.approx(lsts["median_s"] / single["median_s"])
    for row in (single, lsts):
        assert 0 < row["median_s"] <= row["p95_s"] and 100 < row["peak_mb"] < 4000
        assert 0 < row["reached"] < 1 and row["gflop"] > 0
        assert sum(row["parts"].values()) == pytest.approx(1) and min(row["parts"].values()) >= 0
    assert single["parts"]["pixel level"] == 0 < lsts["parts"]["pixel level"]
    printed = capsys.readouterr().out
    assert "FasterRCNN" in printed and "48 x 64 pixels on cpu, threads: 1" in printed


def test_trainings_are_measured_side_by_side(tool, tmp_path):
    out = tmp_path / "speed.json"
    configs = [str(QUICK / "FasterRCNN.yaml"), str(QUICK / "RDN.yaml")]
    words = ["--config-file", *configs, "--size", "64x96", "--steps", "2", "--batch", "2", "--threads", "1"]
    tool.main(["training", *words, "--json", str(out)])
    single, rdn = json.loads(out.read_text())["rows"]
    assert single["images"] == 2 < rdn["images"]  # key frames, and their supports
    assert rdn["images_s"] == pytest.approx(rdn["images"] / rdn["median_s"])
    assert single["ratio"] == 1 and rdn["steps"] == 2 and 100 < rdn["peak_mb"] < 4000


class Detector(nn.Module):
    """A backbone of 3 s, an RPN of 5 s, and heads of 2 s, in which a relation takes 7 s; 1 s is outside."""

    def __init__(self, work):
        super().__init__()
        self.backbone, self.proposal_generator = Part(work, 3), Part(work, 5)
        self.roi_heads = Part(work, 2)
        self.roi_heads.aggregator = Part(work, 7)
        self._work = work

    def forward(self):
        self.backbone(), self.proposal_generator(), self.roi_heads()
        self._work(1)


class Part(nn.Module):
    def __init__(self, work, seconds):
        super().__init__()
        self._work, self._seconds, self.aggregator = work, seconds, None

    def forward(self):
        self._work(self._seconds / 2)
        if self.aggregator is not None:
            self.aggregator()
        self._work(self._seconds / 2)


def test_a_part_is_not_counted_in_that_which_calls_it(tool, monkeypatch):
    from speed import detectors

    now = [0.0]

    def work(seconds):
        now[0] += seconds

    monkeypatch.setattr(detectors.time, "perf_counter", lambda: now[0])
    model = Detector(work)
    breakdown = detectors.Breakdown(model, torch.device("cpu"))
    with breakdown.watching():
        model()
    model()  # not watched
    assert breakdown.seconds == {"backbone": 3, "pixel level": 0, "RPN": 5, "RoI": 2, "relation": 7}


@pytest.mark.parametrize("size", ["600", "0x10", "600x1000x3", "axb"])
def test_a_size_that_is_none_is_refused(tool, size, capsys):
    with pytest.raises(SystemExit):
        tool.main(["detectors", "--config-file", "a.yaml", "--size", size])
    assert f"{size!r}: expected HEIGHTxWIDTH" in capsys.readouterr().err


def test_without_a_detector_the_error_says_how_to_name_one(tool):
    with pytest.raises(UserError, match=r"give --config-file FILE \.\.\. or --all"):
        tool.main(["detectors"])
    with pytest.raises(UserError, match=r"give --config-file FILE \.\.\."):
        tool.main(["training"])
    with pytest.raises(UserError, match="--size 48x64: .*from 64"):
        tool.main(["training", "--config-file", "a.yaml", "--size", "48x64"])
