#!/usr/bin/env python3
"""Try everything that the project does on a GPU, measure it, and write a report.

python tools/gpu_report.py --out report --minutes 8
python tools/gpu_report.py --out report --device cpu --minutes 3     # what applies there, at the smallest size
python tools/gpu_report.py --publish report/report.json              # docs/gpu.md

It needs a checkout, Python with PyTorch and torchvision, and a CUDA toolkit. Steps run in order of worth, each in a
process of its own with a limit; one that fails, dies or hangs does not keep the others from running. The exit code is
1 if something failed, else 0.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As a script it finds gpu_steps by itself; imported by a test it does not.
sys.path.insert(0, str(ROOT / "tools"))

from gpu_steps import report as reports  # noqa: E402
from gpu_steps.plan import STEPS, PlannedStep, limit_of  # noqa: E402
from gpu_steps.process import GRACE, Outcome, run_step  # noqa: E402
from gpu_steps.step import Settings  # noqa: E402

BAD = ("failed", "crashed", "timed out")


def parse(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="receives report.json, report.md and the logs")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="scratch: builds, data sets, trainings (default OUT/work)"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default 8)")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="install what is missing from here (tools/gpu_wheels.sh)"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", choices=names, help=f"of: {', '.join(names)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "small"), help="default: full on cuda, small on cpu")
    parser.add_argument("--commit", help="what to call the checkout where git does not know it")
    parser.add_argument("--publish", nargs="+", metavar="REPORT", help="write docs/gpu.md from these reports, and end")
    args = parser.parse_args(arguments)
    if args.publish is None and args.out is None:
        parser.error("--out DIR is required")
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes}: expected a positive number")
    if args.wheels is not None and not list(args.wheels.glob("*.whl")):
        parser.error(
            f"--wheels {args.wheels}: expected a folder with .whl files; tools/gpu_wheels.sh {args.wheels} fills it"
        )
    return args


def install_wheels(folder: Path, site: Path) -> list[str]:
    """Install those wheels into `site` whose package is missing; returns their names.

    Exits with a sentence if pip refuses one.
    """
    # The name of a wheel begins with that of its package.
    missing = [wheel for wheel in sorted(folder.glob("*.whl")) if not _is_installed(wheel.name.split("-")[0])]
    if missing:
        # --no-index and --no-deps: nothing but these wheels, on a machine without a network.
        words = "install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target".split()
        process = subprocess.run([sys.executable, "-m", "pip", *words, str(site), *map(str, missing)])
        if process.returncode:
            sys.exit(f"error: pip could not install the wheels of {folder}, see above: are they for this Python?")
    return [wheel.name for wheel in missing]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing_packages(site: Path) -> list[str]:
    """What the project cannot be imported without, and is neither installed nor in `site`."""
    names = (
        "torch",
        "torchvision",
        "cv2",
        "numpy",
        "fvcore",
        "iopath",
        "yacs",
        "pycocotools",
        "av",
        "termcolor",
        "tabulate",
    )
    # The steps import from `site`, this process does not.
    return [name for name in names if importlib.util.find_spec(name) is None and not list(site.glob(f"{name}*"))]


def fingerprint(root: Path) -> str:
    """Of everything that the built package is made of: one that was built from other files must not be used."""
    digest = hashlib.sha256()
    for path in sorted([root / "setup.py", *(root / "vod2").rglob("*"), *(root / "projects").rglob("*")]):
        if path.is_file() and path.suffix in (".py", ".cpp", ".h", ".cu"):
            # With its path: a file that was renamed is another package.
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def describe(device: str, environment: dict[str, str]) -> dict:
    """The card and the versions, asked in another process: the driver itself must not hold the GPU."""
    command = [sys.executable, "-m", "gpu_steps.machine", device]
    try:
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        sys.exit(f"error: {device} did not answer within two minutes")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["it said nothing"]
        sys.exit(f"error: {device} cannot be used: {lines[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def commit_of(root: Path, commit: str | None) -> str:
    """Such as a1a7d0d, or a1a7d0d+changes."""
    if commit:
        return commit

    def git(*words: str) -> str:
        process = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return process.stdout.strip() if process.returncode == 0 else ""

    try:
        name = git("rev-parse", "--short", "HEAD")
        if name and git("status", "--porcelain"):
            return f"{name}+changes"
        return name or "unknown"
    except FileNotFoundError:  # no git
        return "unknown"


class Driver:
    """Runs the steps of a plan one after the other and keeps the report up to date after each."""

    def __init__(self, args: argparse.Namespace, plan: Sequence[PlannedStep], begin: float) -> None:
        self.args, self.plan, self.begin = args, plan, begin
        self.out = args.out.resolve()
        self.work = (args.work or args.out / "work").resolve()
        for folder in (self.out, self.work, self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.library, self.site = self.work / "library", self.work / "site"
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(self._import_from()),
            "PYTHONUNBUFFERED": "1",
            "DETECTRON2_DATASETS": str(self.work / "datasets"),
        }
        if args.device == "cpu":  # more threads would only wait for each other in work that is this small
            self.environment.setdefault("OMP_NUM_THREADS", "1")
        self.report: dict = {}

    def _import_from(self) -> list[str]:
        # The built package comes before the checkout, and is not there before the build step.
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        return [str(path) for path in (self.library, ROOT, ROOT / "tools", self.site)] + inherited

    def prepare(self) -> None:
        """Install wheels, look at the machine, begin the report.

        Exits with a sentence if the device or a package is missing.
        """
        if self.args.wheels is not None:
            names = install_wheels(self.args.wheels, self.site)
            print("installed:", ", ".join(names) or "nothing was missing", flush=True)
        if missing := missing_packages(self.site):
            sys.exit(
                f"error: {', '.join(missing)} cannot be imported: install them, or see --wheels and tools/gpu_wheels.sh"
            )
        machine = describe(self.args.device, self.environment)
        # After all that may end the run, so that a failed start leaves the last report in its place.
        reports.set_aside(self.out)
        self.report = {
            "schema": reports.SCHEMA,
            **machine,
            "device": self.args.device,
            "size": self.args.size or ("full" if self.args.device == "cuda" else "small"),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit_of(ROOT, self.args.commit),
            "minutes": self.args.minutes,
            "seconds": 0.0,
            "ops": [],
            "steps": [],
            "rows": [],
        }

    def run(self) -> bool:
        """All steps; returns whether none of them is bad."""
        steps = [step for step in self.plan if not self.args.only or step.name in self.args.only]
        self._library_of_an_earlier_run(will_build=any(step.name == "build" for step in steps))
        # Each result is saved before the next step begins.
        for step in steps:
            limit = limit_of(step, 60 * self.args.minutes, 60 * self.args.minutes - self._elapsed())
            outcome = Outcome("no time", 0.0, "", []) if limit == 0 else self._run(step, limit)
            self._add(step, outcome)
            print(f"{step.name}: {outcome.status}, {outcome.seconds:.0f} s {outcome.message}".rstrip(), flush=True)
        return all(step["status"] not in BAD for step in self.report["steps"])

    def _elapsed(self) -> float:
        return time.monotonic() - self.begin

    def _library_of_an_earlier_run(self, will_build: bool) -> None:
        """Use what an earlier run built into --work, if it is of these files; else the checkout's own."""
        stamp = self.work / "library.json"
        if stamp.exists():
            built = json.loads(stamp.read_text())
            if built["fingerprint"] == fingerprint(ROOT) and not will_build:
                self.report["ops"] = built["ops"]
                return
            stamp.unlink()
        if self.library.exists():
            shutil.rmtree(self.library)

    def _run(self, step: PlannedStep, limit: float) -> Outcome:
        rows = self.work / f"rows_{step.name}.jsonl"
        rows.unlink(missing_ok=True)  # those of an earlier run
        settings = Settings(
            device=self.args.device,
            size=self.report["size"],
            root=str(ROOT),
            folder=str(self.work / step.name),
            library=str(self.library),
            rows=str(rows),
            # The wall clock, because another process compares with it.
            deadline=time.time() + GRACE * limit,
            rates=self._rates(),
        )
        log = self.out / "logs" / f"{step.name}.log"
        log.unlink(missing_ok=True)
        return run_step(step, settings, limit, log, self.environment)

    def _rates(self) -> dict[str, float]:
        """What the machine step has measured, as {name: value}."""
        measured = [row for row in self.report["rows"] if row["step"] == "machine"]
        return {row["name"]: row["rate"] for row in measured if "rate" in row}

    def _add(self, step: PlannedStep, outcome: Outcome) -> None:
        origin = {key: self.report[key] for key in ("card", "date", "commit")}
        self.report["rows"] += [{"step": step.name, **row, **origin} for row in outcome.rows]
        self.report["steps"].append(
            {"name": step.name, "status": outcome.status, "seconds": outcome.seconds, "message": outcome.message}
        )
        built = [row for row in outcome.rows if "device_types" in row]
        if built:
            self.report["ops"] = built[-1]["device_types"]
            stamp = {"fingerprint": fingerprint(ROOT), "ops": self.report["ops"]}
            reports.write(self.work / "library.json", json.dumps(stamp))
        self.report["seconds"] = self._elapsed()
        reports.save(self.report, self.out)


def main(arguments: Sequence[str] | None = None, plan: Sequence[PlannedStep] = STEPS) -> int:
    begin = time.monotonic()
    args = parse(arguments, [step.name for step in plan])
    if args.publish is not None:
        try:
            reports.publish(args.publish, ROOT / "docs" / "gpu.md")
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    driver = Driver(args, plan, begin)
    driver.prepare()
    passed = driver.run()
    print(driver.out / "report.md")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
