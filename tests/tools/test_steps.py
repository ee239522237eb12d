"""Commands that a command runs: failures, interruptions, what is finished already."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
import torch

from vod2.checkpoint.files import write_checkpoint
from vod2.commands import steps
from vod2.d2 import setup_logger
from vod2.engine import load_config
from vod2.errors import UserError

SLEEPER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: (time.sleep(0.3), print("saved", flush=True), os._exit(75)))
print("ready", flush=True)
time.sleep(60)
"""


class Started(subprocess.Popen):
    """Any `vod2 COMMAND` is this program instead."""

    program = ""

    def __init__(self, words, **options):
        self.words = words[3:]
        super().__init__([sys.executable, "-c", self.program], **options)


@pytest.fixture
def run(monkeypatch):
    def prepare(program: str):
        monkeypatch.setattr(Started, "program", program)
        monkeypatch.setattr(steps.subprocess, "Popen", Started)

    return prepare


def test_a_failure_is_an_error_and_an_interruption_keeps_its_exit_code(run):
    run("import sys; sys.exit(2)")
    with pytest.raises(UserError, match="vod2 train failed, its message stands above"):
        steps.run_step("A step", "train")
    for code in (75, 130):
        run(f"import sys; sys.exit({code})")
        with pytest.raises(SystemExit) as stopped:
            steps.run_step("A step", "train")
        assert stopped.value.code == code
    run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UserError, match="vod2 train was ended by SIGKILL"):
        steps.run_step("A step", "train")


def test_sigterm_is_passed_on_and_what_the_command_saves_is_waited_for(run, capfd):
    run(SLEEPER)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop() -> None:
        while "ready" not in capfd.readouterr().out:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        steps.run_step("A step", "train")
    thread.join()
    assert stopped.value.code == 75 and "saved" in capfd.readouterr().out
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.fixture
def finished(tmp_path):
    """A finished training of quick/RDN.yaml with MAX_ITER 10."""
    cfg = load_config("quick/RDN.yaml", ["SOLVER.MAX_ITER", "10", "OUTPUT_DIR", str(tmp_path)])
    write_checkpoint(tmp_path, "model_final", {"a": torch.zeros(1)}, {}, {"configuration": cfg.dump()})
    results = tmp_path / "inference" / "mine_val"
    results.mkdir(parents=True)
    (results / "results.json").write_text(json.dumps({"vid": {"AP50": 12.5}}))
    return tmp_path


def step(output, *keys: str) -> dict:
    return steps.train_step("A step", output, "mine_val", "quick/RDN.yaml", ["SOLVER.MAX_ITER", *keys])


def test_a_training_that_is_finished_is_not_run_again(run, finished):
    run("import sys; sys.exit(9)")
    assert step(finished, "10") == {"AP50": 12.5}
    assert step(finished, "10", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu") == {"AP50": 12.5}
    (finished / "model_final.safetensors").unlink()
    with pytest.raises(UserError, match="failed"):  # without final weights it is not
        step(finished, "10")


def test_other_settings_do_not_get_the_result_of_the_ones_before(run, finished):
    run("import sys; sys.exit(9)")
    with pytest.raises(UserError, match=r"other settings \(SOLVER.MAX_ITER: 10 -> 20\): give another --output"):
        step(finished, "20")
    with pytest.raises(UserError, match=r"\(SEED: 0 -> 1\)"):
        step(finished, "10", "SEED", "1")
    (finished / "model_final.checkpoint.json").unlink()
    with pytest.raises(UserError, match="does not say how it was trained"):
        step(finished, "10")


def test_a_command_that_failed_can_be_corrected(run, tmp_path):
    run("import sys; sys.exit(2)")
    for keys in (["10", "SOLVER.BASE_LRR", "1"], ["10"]):
        with pytest.raises(UserError, match="vod2 train failed, its message"):
            step(tmp_path / "out", *keys)


def test_a_step_in_this_process_gets_its_words_and_leaves_no_handler_of_its_logs(monkeypatch, tmp_path, capsys):
    """Otherwise a second evaluation would print each line twice, and write to the log of the first."""
    called = []

    def main(words):
        called.append(words)
        setup_logger(words[-1], name="vod2.steps_test")
        logging.getLogger("vod2.steps_test").info("evaluated into %s", words[-1])

    monkeypatch.setitem(sys.modules, "vod2.commands.evaluate", types.SimpleNamespace(main=main))
    for name in ("a", "b"):
        steps.call_step(f"Step {name}", "eval", "--x", tmp_path / name)
    assert called == [["--x", str(tmp_path / name)] for name in ("a", "b")]
    said = capsys.readouterr().out
    assert said.count("evaluated into") == 2 and "== Step b" in said
    for name in ("a", "b"):
        assert (tmp_path / name / "log.txt").read_text().count("evaluated into") == 1
    assert logging.getLogger("vod2.steps_test").handlers == []


def test_of_an_evaluation_the_warnings_are_printed_and_all_is_in_its_log(monkeypatch, tmp_path, capsys):
    def main(words):
        output = tmp_path / "out"
        setup_logger(str(output), name="vod2.steps_test")
        log = logging.getLogger("vod2.steps_test")
        log.info("the configuration:\nKEY: 'WARNING'")
        log.warning("no network:\nexpected one")
        results = output / "inference" / "held_out" / "results.json"
        results.parent.mkdir(parents=True)
        results.write_text(json.dumps({"vid": {"AP50": 1.5}}))

    monkeypatch.setitem(sys.modules, "vod2.commands.evaluate", types.SimpleNamespace(main=main))
    metrics = steps.evaluate_step("Held-out videos", tmp_path / "out", "held_out", "c.yaml", [])
    said = capsys.readouterr().out
    assert metrics == {"AP50": 1.5}
    assert f"== Held-out videos (log: {tmp_path / 'out' / 'log.txt'})" in said
    assert "no network:\nexpected one" in said and "KEY" not in said
    assert "KEY: 'WARNING'" in (tmp_path / "out" / "log.txt").read_text()
