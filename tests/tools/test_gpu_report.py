"""The GPU report on a CPU: one step's failure never costs the others, and what is written says so."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helpers.modules import load_module

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "gpu_report.py"


@pytest.fixture(scope="module")
def tool():
    """tools/gpu_report.py as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    module = load_module(TOOL)
    yield module
    sys.path.remove(str(ROOT / "tools"))


STEPS = {
    "good": "step.case('one', lambda: {'rate': 1.5}); step.case('two', lambda: None)",
    "wrong": """
        def raises():
            raise ValueError("told so")
        def differs():
            raise Failed("too far", error=0.5)
        step.case('raises', raises)
        step.case('differs', differs)
        step.case('fine', lambda: {'x': 1})
    """,
    "hangs": """
        import time
        step.case('before', lambda: {'x': 1})
        step.case('asleep', lambda: time.sleep(1000))
        step.case('after', lambda: {'x': 1})
    """,
    "dies": """
        import os, signal
        step.case('before', lambda: {'x': 1})
        step.case('killed', lambda: os.kill(os.getpid(), signal.SIGSEGV))
        step.case('after', lambda: {'x': 1})
    """,
    "lost": """
        def fault():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        step.case('fault', fault)
        step.case('after', lambda: {'pid': __import__('os').getpid()})
    """,
    "broken": "raise ImportError('no such thing')",
    "idle": """
        def nothing():
            raise NotApplicable("there is nothing here")
        step.case('nothing', nothing)
    """,
}


@pytest.fixture
def run(tool, tmp_path, monkeypatch):
    """Runs the named steps of `STEPS`; returns the exit code, the report and {(step, case): row}."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, body in STEPS.items():
        head = "from gpu_steps.step import Failed, NotApplicable\n\n\ndef run(step):\n"
        (modules / f"step_{name}.py").write_text(head + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setattr(tool, "describe", lambda *_: {"card": "some card", "versions": "of all"})  # it takes seconds

    def run_steps(*names, minutes=1.0, share=0.5, words=()):
        plan = [tool.PlannedStep(name, f"step_{name}", share) for name in names]
        out = tmp_path / "out"
        code = tool.main(["--device", "cpu", "--minutes", str(minutes), "--out", str(out), *words], plan)
        report = json.loads((out / "report.json").read_text())
        return code, report, {(row["step"], row["name"]): row for row in report["rows"]}

    return run_steps


def statuses(report):
    return {step["name"]: step["status"] for step in report["steps"]}


def test_good_steps_end_with_exit_code_0_and_rows_that_name_card_date_and_commit(run):
    code, report, rows = run("good", "idle")
    assert code == 0 and statuses(report) == {"good": "passed", "idle": "does not apply"}
    assert rows["good", "one"]["rate"] == 1.5
    for row in rows.values():
        assert row["card"] and row["date"].endswith("UTC") and row["commit"]


def test_wrong_results_are_told_and_the_cases_after_them_run(run):
    code, report, rows = run("wrong", "good")
    assert code == 1 and statuses(report) == {"wrong": "failed", "good": "passed"}
    assert rows["wrong", "raises"]["message"] == "ValueError: told so" and "raises" in rows["wrong", "raises"]["trace"]
    assert rows["wrong", "differs"]["error"] == 0.5 and "trace" not in rows["wrong", "differs"]
    assert rows["wrong", "fine"]["status"] == "passed"


def test_a_step_that_hangs_is_killed_and_its_finished_cases_and_the_other_steps_are_reported(run):
    code, report, rows = run("hangs", "good", minutes=1.0, share=0.1)
    assert code == 1 and statuses(report) == {"hangs": "timed out", "good": "passed"}
    assert rows["hangs", "before"]["status"] == "passed" and rows["hangs", "asleep"]["status"] == "timed out"
    assert ("hangs", "after") not in rows
    assert report["seconds"] < 50


def test_a_process_that_dies_in_a_case_is_replaced_by_one_that_goes_on_after_it(run):
    code, report, rows = run("dies", "good")
    assert code == 1 and statuses(report) == {"dies": "crashed", "good": "passed"}
    assert [rows["dies", name]["status"] for name in ("before", "killed", "after")] == ["passed", "crashed", "passed"]
    assert "exit code -11" in rows["dies", "killed"]["message"]


def test_after_a_lost_gpu_context_the_next_case_gets_a_new_process(run):
    code, report, rows = run("lost")
    assert code == 1 and statuses(report) == {"lost": "failed"}
    assert "illegal memory access" in rows["lost", "fault"]["message"]
    assert rows["lost", "after"]["status"] == "passed"


def test_a_step_that_does_not_even_start_is_told_with_the_end_of_its_log(run, tmp_path):
    code, report, _ = run("broken", "good")
    assert code == 1 and statuses(report) == {"broken": "crashed", "good": "passed"}
    assert "no such thing" in report["steps"][0]["message"]
    assert "ImportError" in (tmp_path / "out" / "logs" / "broken.log").read_text()


def test_without_time_left_a_step_is_not_begun_and_that_is_no_failure(run):
    code, report, _ = run("good", minutes=0.02)
    assert code == 0 and statuses(report) == {"good": "no time"}


def test_only_the_chosen_steps_run(run):
    _, report, _ = run("good", "wrong", words=("--only", "good"))
    assert statuses(report) == {"good": "passed"}


def test_a_second_run_into_the_same_folder_measures_again_and_keeps_the_first_report(run, tmp_path):
    _, first, _ = run("wrong")
    code, _, rows = run("good")
    assert code == 0 and {step for step, _ in rows} == {"good"}
    assert json.loads((tmp_path / "out" / "report_1.json").read_text()) == first
    assert (tmp_path / "out" / "report_1.md").exists()


def test_the_page_has_every_case_and_the_trace_of_what_failed(run, tmp_path):
    run("wrong", "good")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| one | passed | 1.5 |" in page
    assert "ValueError: told so" in page and "```" in page


def test_a_report_of_a_cpu_is_not_published(run, tool, tmp_path, capsys):
    run("good")
    assert tool.main(["--publish", str(tmp_path / "out" / "report.json")]) == 2
    assert "only those of a GPU" in capsys.readouterr().err


def test_a_report_of_a_gpu_becomes_a_page(run, tool, tmp_path):
    _, report, _ = run("good")
    path, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    path.write_text(json.dumps(report | {"device": "cuda", "card": "Some Card"}))
    tool.reports.publish([str(path)], page)
    text = page.read_text()
    assert text.startswith("# GPU\n") and "\n## Some Card\n" in text and "\n### good\n" in text


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 0}'])
def test_what_is_no_report_is_named(tool, tmp_path, content, capsys):
    path = tmp_path / "x.json"
    path.write_text(content)
    assert tool.main(["--publish", str(path)]) == 2
    assert "x.json" in capsys.readouterr().err


def report_of_tool(folder, *words, **variables):
    """The report that the tool itself writes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "--device", "cpu", "--out", str(folder), *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (folder / "report.json").exists(), done.stderr
    return done, json.loads((folder / "report.json").read_text())


@pytest.mark.slow  # a minute and a half, alone
def test_the_real_steps_run_on_a_cpu_at_the_smallest_size(tmp_path):
    steps = ("machine", "ops", "sanitizer", "equality", "speed", "training", "learning")
    done, report = report_of_tool(tmp_path, "--minutes", "4", "--only", *steps)
    found = statuses(report)
    assert found.pop("sanitizer") == "does not apply"
    # Without the compiled extension the step of the ops says so, and that is a failure.
    expected = "passed" if report_has_kernels(report) else "failed"
    assert found.pop("ops") == expected, done.stdout
    assert set(found.values()) == {"passed"}, done.stdout
    assert done.returncode == (0 if expected == "passed" else 1)


def report_has_kernels(report):
    (row,) = [row for row in report["rows"] if (row["step"], row["name"]) == ("ops", "kernels")]
    return row["status"] == "passed"


@pytest.mark.slow
def test_later_steps_use_what_the_build_step_has_built(tmp_path):
    """Here a build without ops, which takes no compiler's time: the package is copied all the same."""
    words = ("--minutes", "2", "--only", "build", "ops")
    _, report = report_of_tool(tmp_path, *words, CC="/bin/false", CXX="/bin/false")
    (row,) = [row for row in report["rows"] if (row["step"], row["name"]) == ("ops", "kernels")]
    assert row["of the build step"] is True


@pytest.mark.slow
def test_without_a_compiler_the_build_fails_with_its_reason_and_the_other_steps_run(tmp_path):
    words = ("--minutes", "2", "--only", "build", "machine")
    done, report = report_of_tool(tmp_path, *words, CC="/bin/false", CXX="/bin/false")
    assert done.returncode == 1
    assert statuses(report) == {"machine": "passed", "build": "failed"}
    (row,) = [row for row in report["rows"] if row["step"] == "build"]
    assert "the compiled ops of vod2 were not built" in row["message"] and row["device_types"] == []


def test_registers_and_spills_are_read_from_what_ptxas_says():
    sys.path.insert(0, str(ROOT / "tools"))
    from gpu_steps.build import kernels

    log = """
    ptxas info    : Compiling entry function '_ZN4vod252_GLOBAL__N__3592_668210sum_kernelIfEEvNS0_7ProblemIT_EEiPS3_' for 'sm_90'
    ptxas info    : Function properties for _ZN4vod252_GLOBAL__N__3592_668210sum_kernelIfEEvNS0_7ProblemIT_EEiPS3_
        32 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
    ptxas info    : Used 40 registers, used 1 barriers, 768 bytes smem
    ptxas info    : Function properties for __internal_trig_reduction_slowpathd
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    """  # noqa: E501
    expected = {"architecture": "sm_90", "stack bytes": 32, "spill stores": 8, "spill loads": 4, "registers": 40}
    assert kernels(log) == {"sum_kernel<float>": expected}
