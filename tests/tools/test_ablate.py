"""The command line of suites: what it prints, how it ends, and that it survives being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.modules import load_module
from helpers.suites import QUICK, calls, fake_train_net, write_suite

ROOT = Path(__file__).resolve().parents[2]
ABLATE = ROOT / "tools" / "ablate.py"

FAKE_COMPARE = """
import sys
from pathlib import Path

with open(Path(__file__).with_name("compared.txt"), "a") as file:
    print(*sys.argv[1:], file=file)
sys.exit({})
"""


@pytest.fixture
def ablate(tmp_path, monkeypatch, capsys):
    """Calls the tool in this process, with a train_net.py that trains nothing; returns its exit code and output."""
    tool = load_module(ABLATE)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: str, **behaviour) -> tuple[int, str, str]:
        (tmp_path / "compare.py").write_text(FAKE_COMPARE.format(behaviour.pop("comparison", 0)))
        tool.TRAIN_NET, tool.COMPARE = fake_train_net(tmp_path, **behaviour), str(tmp_path / "compare.py")
        monkeypatch.setattr(sys, "argv", ["ablate.py", *words, "--device", "cpu", "--jobs", "1"])
        code = 0
        try:
            tool.cli.run(tool.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


def test_a_suite_is_run_and_its_table_printed_and_written(ablate, tmp_path):
    write_suite(tmp_path)
    values = {"RDN/0/own": 60.0, "RDN/1/own": 62.0}
    code, out, _ = ablate("--suite", "mine.yaml", "--size", "tiny", "--seeds", "0", "1", AP50=values)
    assert code == 0
    table = (tmp_path / "output" / "suites" / "mine_tiny" / "results.md").read_text()
    assert table in out and "61.00 (1.41)" in table and "+11.00" in table
    assert "[10/10] RDN, seed 1, evaluation (none): done in" in out
    code, out, _ = ablate("--suite", "mine.yaml", "--size", "tiny", "--seeds", "0", "1")
    assert code == 0 and "0 jobs to do" in out and len(calls(tmp_path)) == 10


def test_a_failed_job_is_told_and_the_exit_code_is_1(ablate, tmp_path):
    write_suite(tmp_path)
    code, out, err = ablate("--suite", "mine.yaml", "--size", "tiny", fail=["RDN/0/own"])
    assert code == 1 and "1 jobs have failed" in err
    assert "RDN, seed 0, evaluation (own): failed with exit code 1: error: out of luck" in out
    assert "own.txt" in out


def test_what_is_done_is_compared_by_the_bootstrap_where_asked_for(ablate, tmp_path):
    """By hand: RDN with the first row, then none with own of RDN; both with the folders of both seeds."""
    write_suite(tmp_path)
    code, out, _ = ablate("--suite", "mine.yaml", "--size", "tiny", "--seeds", "0", "1", "--output", "out", "--compare")
    assert code == 0
    asked = [line.split() for line in (tmp_path / "compared.txt").read_text().splitlines()]

    def folders(row: str, name: str) -> str:
        return ",".join(str(tmp_path / "out" / row / f"seed{seed}" / "inference" / name) for seed in (0, 1))

    single, own, none = ("single", "synthetic_val"), ("RDN", "synthetic_val"), ("RDN", "synthetic_val_none")
    compare = tmp_path / "out" / "compare" / "synthetic_val"
    assert asked == [
        [f"single={folders(*single)}", f"RDN={folders(*own)}", "--output", str(compare / "rows")],
        [f"own={folders(*own)}", f"none={folders(*none)}", "--output", str(compare / "RDN")],
    ]


def test_a_comparison_that_fails_makes_the_exit_code_1(ablate, tmp_path):
    write_suite(tmp_path)
    assert ablate("--suite", "mine.yaml", "--size", "tiny", "--compare", comparison=3)[0] == 1


def test_a_dry_run_prints_the_plan_and_leaves_nothing(ablate, tmp_path):
    write_suite(tmp_path)
    code, out, _ = ablate("--suite", "mine.yaml", "--size", "tiny", "--output", "out", "--dry-run")
    assert code == 0 and "5 jobs to do, 1 at once; expected: unknown" in out
    assert not (tmp_path / "out").exists() and calls(tmp_path) == []


def test_an_estimate_is_measured_once_and_then_known(ablate, tmp_path):
    """By hand: 10 iterations of .25 s in both rows."""
    write_suite(tmp_path)
    words = ("--suite", "mine.yaml", "--size", "tiny", "--output", "out", "--dry-run")
    code, out, _ = ablate(*words, "--estimate")
    assert code == 0 and "RDN: 0.250 s an iteration" in out and "expected: 5 s + 3 unknown" in out
    _, out, _ = ablate(*words)
    assert "expected: 5 s + 3 unknown" in out and len(calls(tmp_path)) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--suite", "nothing", "--size", "tiny"], "nothing.yaml' cannot be read"),
        (["--suite", "mine.yaml", "--size", "huge"], "--size is 'huge', suite mine has tiny, full"),
        (["--suite", "mine.yaml", "--size", "tiny", "--rows", "SELSA"], "no row 'SELSA'"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_nothing_is_written(ablate, tmp_path, words, message):
    write_suite(tmp_path)
    code, _, err = ablate(*words)
    assert code == 2 and message in err and err.startswith("error: ")
    assert not (tmp_path / "output").exists()


# A real training is killed here, three times.

TINY = {
    "MODEL.NARROW_RESNET.CHANNELS": [8, 12, 16, 24],
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 1000,  # no checkpoint before the end: what is cut off begins anew, and ends the same
    "INPUT.MIN_SIZE_TRAIN": [64],
    "INPUT.MIN_SIZE_TEST": 64,
    "TEST.COCO_AP": False,
}


def start(folder: Path, output: str) -> subprocess.Popen:
    """The tool in a process group of its own."""
    words = ["--suite", "mine.yaml", "--size", "tiny", "--output", output, "--device", "cpu", "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DETECTRON2_DATASETS": str(folder)}
    command = [sys.executable, str(ABLATE), *words, "--seeds", "0", "1"]
    with open(folder / f"{output}.txt", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_when(process: subprocess.Popen, output: Path, row: str, kind: str, log: str) -> None:
    """SIGKILL the group while a job of seed 0 runs whose log has the words `log`."""
    record, printed = output / row / "seed0" / f"{kind}.json", output / row / "seed0" / f"{kind}.txt"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        running = record.is_file() and json.loads(record.read_text())["state"] == "running"
        if running and printed.is_file() and log in printed.read_text():
            break
        time.sleep(0.02)
    else:
        pytest.fail(f"{row} {kind} never ran")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finished(output: Path) -> dict[Path, int]:
    """The files of jobs that are done, with the times when they were written."""
    records = [path for path in output.glob("*/seed*/*.json") if path.stem in ("train", "own", "none", "foreign")]
    done = [path for path in records if json.loads(path.read_text())["state"] == "done"]
    files = done + [path.with_name("model_final.safetensors") for path in done if path.stem == "train"]
    return {path: path.stat().st_mtime_ns for path in files}


def metrics(output: Path) -> dict:
    rows = json.loads((output / "results.json").read_text())["rows"]
    return {
        (name, seed, kind): record["metrics"]
        for name, row in rows.items()
        for seed, records in row["seeds"].items()
        for kind, record in records.items()
        if kind != "train"
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_suite_that_is_killed_three_times_ends_with_the_same_table(tmp_path):
    """In a training from scratch, in one that starts from it, and in an evaluation."""
    words = "--output synthetic --train-videos 3 --val-videos 2 --frames 4 --size 64x96 --classes 6".split()
    subprocess.run([sys.executable, str(ROOT / "tools" / "make_synthetic.py"), *words], cwd=tmp_path, check=True)
    rows = [
        {"name": "single", "config": str(QUICK / "FasterRCNN.yaml"), "iterations": 12},
        {"name": "RDN", "config": str(QUICK / "RDN.yaml"), "base": "single", "contexts": ["own", "none", "foreign"]},
    ]
    write_suite(tmp_path, rows, sizes={"tiny": {"iterations": 8, "overrides": TINY}})
    assert start(tmp_path, "whole").wait(900) == 0

    output = tmp_path / "killed"
    for row, kind, log in (
        ("single", "train", "Starting training"),
        ("RDN", "train", "Starting training"),
        ("RDN", "none", "Start inference"),
    ):
        process = start(tmp_path, "killed")
        kill_when(process, output, row, kind, log)
        before = finished(output)
        assert (len(before) > 0) == (row != "single")
    process = start(tmp_path, "killed")
    assert process.wait(900) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert metrics(output) == metrics(tmp_path / "whole") and len(metrics(output)) == 8
    assert (output / "results.md").read_text() == (tmp_path / "whole" / "results.md").read_text()
    attempts = json.loads((output / "single" / "seed0" / "train.json").read_text())["attempts"]
    assert attempts == 2
