"""The CPU's tests of the ops and of the methods' contracts, on this device."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

from gpu_steps.step import Failed, Step

MOST_NAMES = 30  # of failed tests, that are listed


def run(step: Step) -> None:
    step.case("tests/ops", partial(_pytest, step, "tests/ops"), needs=5)
    if not step.small:
        step.case("tests/contracts", partial(_pytest, step, "tests/contracts"), needs=10)


def _pytest(step: Step, folder: str) -> dict:
    """pytest in several processes; a result counts as soon as it is there."""
    results = step.folder / f"{folder.rpartition('/')[2]}.xml"
    command = [sys.executable, "-m", "pytest", str(step.root / folder), "-c", str(step.root / "pyproject.toml")]
    command += ["-q", "-p", "no:cacheprovider", f"--junitxml={results}"]
    command += [f"--device={step.device}", "-n", str(min(8, os.cpu_count() or 1)), "--tb=short"]
    # The processes of pytest share the cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Not in the checkout: it would be imported in the place of the package that was built.
    code = subprocess.run(command, cwd=step.folder, env=environment).returncode
    if not results.exists():
        raise Failed(f"pytest ended with exit code {code} and no results, see the log")
    values = counts(results)
    if code:
        raise Failed(f"{values['failed']} tests failed", **values)
    return values


def counts(path: Path) -> dict:
    """How many tests passed, failed and were skipped, and the names of some that failed, from a JUnit file."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed[:MOST_NAMES]]
    return {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped, "names": names}
