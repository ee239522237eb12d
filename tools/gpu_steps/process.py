"""Runs a step in processes of its own, within a limit. Standard library only."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from gpu_steps.plan import PlannedStep
from gpu_steps.step import STARTED, Settings, append_row, read_rows

GRACE = 0.9
"""Share of its limit in which a step begins cases; the rest is for the one that it is at."""


class Outcome(NamedTuple):
    """How a step ended.

    Attributes:
        status: "passed", "failed" (a case was wrong), "crashed" (the process died), "timed out", "no time" (some cases
            had none left) or "does not apply".
        seconds: wall clock.
        message: of a process that died, the end of what it said; else "".
        rows: see `read_rows`; no status is `STARTED` any more.
    """

    status: str
    seconds: float
    message: str
    rows: list[dict]


def run_step(step: PlannedStep, settings: Settings, limit: float, log: Path, environment: dict[str, str]) -> Outcome:
    """Run a step; where its process dies in a case, another one goes on with the next.

    Args:
        limit: seconds, after which the process and its children are killed.
        log: file that receives what they print.
    """
    begin = time.monotonic()
    settings_file = Path(settings.folder) / "settings.json"
    settings_file.parent.mkdir(parents=True, exist_ok=True)
    settings.write(settings_file)
    command = [sys.executable, "-m", "gpu_steps.run", step.module, str(settings_file)]
    died = ""
    while True:
        num_begun = len(read_rows(settings.rows))
        code = _run(command, begin + limit - time.monotonic(), log, environment, settings.folder)
        rows = read_rows(settings.rows)
        if code == 0:
            break
        # No second process: the limit is that of the step.
        if code is None:
            died = f"killed after {limit:.0f} s"
            _close_open_cases(rows, settings.rows, "timed out", died)
            return Outcome("timed out", time.monotonic() - begin, died, read_rows(settings.rows))
        died = f"exit code {code}: {tail(log)}"
        # The next process finds these cases done, and begins with the one after them.
        _close_open_cases(rows, settings.rows, "crashed", died)
        # Nothing new was begun, so another process would end the same way.
        if len(rows) == num_begun:  # it does not even get to a case
            break
    rows = read_rows(settings.rows)
    return Outcome(_status(rows, died), time.monotonic() - begin, died, rows)


def _run(command: list[str], limit: float, log: Path, environment: dict[str, str], folder: str) -> int | None:
    """The exit code, None if it was killed because of the limit. No process that it started is left.

    It runs in `folder`: Python imports from where it runs first, and in the checkout that would hide what was built.
    """
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            # A process group of its own, which can be killed with all that the step has started.
            start_new_session=True,
        )
        try:
            return process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            return None
        finally:  # also on Ctrl-C
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def _close_open_cases(rows: list[dict], path: str, status: str, message: str) -> None:
    """Say of the case that a process died in what became of it."""
    for row in rows:
        if row["status"] == STARTED:
            append_row(path, {"name": row["name"], "status": status, "message": message})


def _status(rows: list[dict], died: str) -> str:
    statuses = {row["status"] for row in rows}
    for status in ("crashed", "failed", "no time"):
        if status in statuses:
            return status
    if died:
        return "crashed"
    return "passed" if "passed" in statuses else "does not apply"


def tail(log: Path, lines: int = 4) -> str:
    """The last lines of a log, as one."""
    text = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(line.strip() for line in text[-lines:])
