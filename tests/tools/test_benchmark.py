"""vod2 benchmark: whole detectors and trainings side by side."""

import json

import pytest
import torch
from torch import nn

from helpers.models import ROOT
from vod2.benchmark import detectors, machine, parts
from vod2.benchmark.comparing import Comparison, require_kernels
from vod2.benchmark.parts.evaluating import evaluate_in_loops, fill_evaluator, moving_objects, random_instances
from vod2.commands.benchmark import main
from vod2.errors import UserError
from vod2.package_files import config_names

QUICK = ROOT / "configs" / "quick"


def test_detectors_are_measured_side_by_side(tmp_path, capsys):
    out = tmp_path / "speed.json"
    configs = [str(QUICK / "FasterRCNN.yaml"), str(QUICK / "LSTS.yaml")]
    words = ["--config-file", *configs, "--size", "48x64", "--frames", "3", "--threads", "1", "--json", str(out)]
    main(["detectors", *words])
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


@pytest.mark.slow
def test_trainings_are_measured_side_by_side(tmp_path):
    out = tmp_path / "speed.json"
    configs = [str(QUICK / "FasterRCNN.yaml"), str(QUICK / "RDN.yaml")]
    words = ["--config-file", *configs, "--size", "64x96", "--steps", "2", "--batch", "2", "--threads", "1"]
    main(["training", *words, "--json", str(out)])
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


def test_a_part_is_not_counted_in_that_which_calls_it(monkeypatch):
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
def test_a_size_that_is_none_is_refused(size, capsys):
    with pytest.raises(SystemExit):
        main(["detectors", "--config-file", "a.yaml", "--size", size])
    assert f"{size!r}: expected HEIGHTxWIDTH" in capsys.readouterr().err


def test_without_a_detector_the_error_says_how_to_name_one():
    with pytest.raises(UserError, match=r"give --config-file FILE \.\.\. or --all"):
        main(["detectors"])
    with pytest.raises(UserError, match=r"give --config-file FILE \.\.\."):
        main(["training"])
    with pytest.raises(UserError, match="--size 48x64: .*from 64"):
        main(["training", "--config-file", "a.yaml", "--size", "48x64"])


def test_all_methods_come_with_vod2():
    assert set(detectors.METHODS) <= set(config_names())


def test_parts_are_listed_with_what_they_compare(capsys):
    main(["parts", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(parts.BENCHMARKS)
    assert "geometry_bias: The bias of 300 key boxes against 2775 support boxes" in lines[0]


def test_a_part_is_measured_beside_the_plain_way(monkeypatch, capsys):
    calls = []

    def part(device):
        return [
            Comparison("both", lambda: calls.append("plain"), lambda: calls.append("ours")),
            Comparison("one", None, int),
        ]

    monkeypatch.setattr(parts, "BENCHMARKS", {"part": part, "other": None})
    main(["parts", "part", "--repeats", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith("part on cpu, threads: 1\n\n| ") and "| both |" in printed and "| one " in printed
    # One call to warm up, two that are timed, one whose memory is watched.
    assert calls == ["ours"] * 4 + ["plain"] * 4


def test_a_part_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(UserError, match="no benchmark is named geometry; there are: geometry_bias, patch_attention"):
        main(["parts", "geometry", "evaluation"])


def test_a_part_without_compiled_kernels_says_how_to_get_them():
    with pytest.raises(UserError, match="no kernels for meta.*install vod2 where there is a compiler"):
        require_kernels(torch.device("meta"))


def test_the_arrays_and_the_loops_of_the_evaluation_agree():
    # The beginnings of three videos: of slow, of less slow and of fast objects.
    records = [record for record in moving_objects(660) if record["frame_index"] < 15]
    generator = torch.Generator().manual_seed(0)
    instances = [random_instances(record, generator) for record in records]
    metrics = fill_evaluator(records).evaluate()["vid"]
    in_loops = evaluate_in_loops(records, instances)
    assert len(in_loops) == 4 and 0 < in_loops[0] < 100
    assert in_loops == pytest.approx(
        [metrics[key] for key in ("AP50", "AP50-slow", "AP50-medium", "AP50-fast")], nan_ok=True
    )


def test_where_memory_cannot_be_measured_a_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "status")
    with pytest.raises(UserError, match="measured on Linux only"):
        machine.peak_mb(torch.device("cpu"))
