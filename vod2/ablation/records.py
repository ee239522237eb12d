"""What has been done of a plan: a file for each job, and results.json for all. Nothing is kept in memory alone."""

import contextlib
import json
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vod2.ablation.plan import TRAIN, WEIGHTS, Job, JobKey, Plan
from vod2.ablation.report import render_report
from vod2.atomic import replacing, write_json
from vod2.bounded import load_json, shown
from vod2.checkpoint import existing_weights
from vod2.d2 import BACKEND
from vod2.engine import inference_folder
from vod2.errors import UserError
from vod2.locking import locked_file
from vod2.version import __version__

LOCK, RESULTS, TABLE = "ablate.lock", "results.json", "results.md"

RUNNING, DONE, FAILED = "running", "done", "failed"


class Records:
    """The files of one output folder.

    <output>/<row>/seed<seed>/train.json, own.json, none.json, foreign.json say of each job: state ("running", "done",
    "failed"), attempts, settings (of a training); when it is done also seconds, commit, versions, and the metrics of an
    evaluation, {data set: {task: {metric: value}}}. A job whose state is still "running" was cut off.

    Args:
        plan: the jobs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def read(self, job: Job) -> dict[str, Any]:
        """The record of a job; {} where there is none.

        Raises:
            UserError: the file is broken.
        """
        try:
            return _object(job.record)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{job.record} is no record of a job ({error}): delete it to do that job again") from error

    def is_done(self, job: Job) -> bool:
        """Whether the job has succeeded; an evaluation with the weights that its training has left by now."""
        record = self.read(job)
        if record.get("state") != DONE:
            return False
        if job.key.kind == TRAIN:
            return True
        # A record without settings is that of a time when the row was trained itself.
        if job.settings and "settings" not in record:
            return False
        training = self._training(job)
        return training is None or record.get("training") == training

    def left(self) -> dict[JobKey, Job]:
        """The wanted jobs that are to be run, each after the one that it needs.

        Those that are not done; trainings whose weights are gone, if one of these needs them; and the evaluations of a
        training that is run again, so that all of a row are of the same weights.
        """
        wanted = [job for key, job in self._plan.jobs.items() if key in self._plan.wanted]
        remaining: dict[JobKey, Job] = {}
        # Backwards, because a training precedes the jobs that need it
        for job in reversed(wanted):
            is_needed = any(other.needs == job.key for other in remaining.values())
            if not self.is_done(job) or (is_needed and not existing_weights(job.folder / WEIGHTS).is_file()):
                remaining[job.key] = job
        # Evaluations only: a row that starts from these weights has been trained with the old ones
        repeated = {job.key for job in wanted if job.needs in remaining and job.key.kind != TRAIN}
        return {job.key: job for job in wanted if job.key in remaining or job.key in repeated}

    def check(self) -> None:
        """What has been trained already must have been trained with the settings of the plan.

        Keys that only one of the two has (as after an update) do not count.

        Raises:
            UserError: otherwise; names the folder and what differs.
        """
        for job in self._plan.jobs.values():
            before = self.read(job).get("settings", {})
            # The record went through JSON, where tuples are lists and keys are strings
            now = json.loads(json.dumps(job.settings))
            differing = [key for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]
            if differing:
                listed = ", ".join(f"{key} ({before[key]} before, now {now[key]})" for key in differing[:5])
                raise UserError(
                    f"{job.folder} was made with other settings: {listed}; give another --output, or delete that "
                    "folder and those of the rows that start from it"
                )

    def start(self, job: Job) -> None:
        """The job begins, or begins again."""
        attempts = self.read(job).get("attempts", 0) + 1
        self._write(job, {"state": RUNNING, "attempts": attempts})

    def finish(self, job: Job, seconds: float, provenance: Mapping[str, Any]) -> None:
        """The job has succeeded; what it has measured is read and kept.

        Raises:
            UserError: what it should have written is not there.
        """
        record = {"state": DONE, "seconds": round(seconds, 3), **provenance}
        if job.key.kind == TRAIN:
            record["training"] = f"{time.time_ns():x}"  # its name: another run of it leaves other weights
            if not existing_weights(job.folder / WEIGHTS).is_file():
                raise UserError(f"{job.key}: it ended well, but left no {job.folder / WEIGHTS}")
        else:
            record["training"] = self._training(job)
            record["metrics"] = {name: _metrics(job, name) for name in job.datasets}
        self._write(job, {"attempts": self.read(job).get("attempts", 1)} | record)

    def fail(self, job: Job, reason: str) -> None:
        """The job has failed."""
        self._write(job, {"state": FAILED, "attempts": self.read(job).get("attempts", 1), "reason": reason})

    def results(self) -> dict[str, Any]:
        """What is known of every job of the plan, as in results.json."""
        rows: dict[str, Any] = {}
        for job in self._plan.jobs.values():
            name, seed, kind = job.key
            suite_row = self._plan.suite.rows[name]
            row = rows.setdefault(
                name,
                {
                    "config": suite_row.config.name,
                    "base": suite_row.base,
                    "weights_of": suite_row.weights_of,
                    "iterations": self._plan.iterations.get(name),
                    "seeds": {},
                },
            )
            record = self.read(job)
            # Settings would repeat the same keys for every seed
            record.pop("settings", None)
            if record:
                row["seeds"].setdefault(str(seed), {})[kind] = record
        return {"suite": self._plan.suite.name, "size": self._plan.size, "rows": rows}

    def report(self) -> str:
        """The tables of `render_report`, of everything that is done."""
        metrics = {key: self._metrics(job) for key, job in self._plan.jobs.items()}
        return render_report(self._plan, {key: values for key, values in metrics.items() if values})

    def write_results(self) -> None:
        """Write results.json and results.md."""
        write_json(self._plan.output / RESULTS, self.results())
        with replacing(self._plan.output / TABLE) as path:
            path.write_text(self.report(), encoding="utf-8")

    def _training(self, job: Job) -> str | None:
        """Which run of its training an evaluation is of; None where the record does not say, as older ones."""
        return None if job.needs is None else self.read(self._plan.jobs[job.needs]).get("training")

    def _metrics(self, job: Job) -> dict[str, dict[str, float | None]]:
        """{data set: {"task/metric": value}} of an evaluation that is done; else {}."""
        if not self.is_done(job):
            return {}
        record = self.read(job)
        metrics: dict[str, dict[str, float | None]] = {}
        for dataset, tasks in record.get("metrics", {}).items():
            metrics[dataset] = {}
            for task, values in tasks.items():
                metrics[dataset].update({f"{task}/{name}": value for name, value in values.items()})
        return metrics

    def _write(self, job: Job, record: dict[str, Any]) -> None:
        settings = {"settings": dict(job.settings)} if job.settings else {}
        write_json(job.record, record | settings)


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; OSError or ValueError where it holds something else."""
    content = load_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds {shown(content)}, expected an object")
    return content


def _metrics(job: Job, dataset: str) -> dict[str, dict[str, float | None]]:
    path = Path(inference_folder(str(job.folder), dataset, job.key.kind)) / "results.json"
    try:
        results = _object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{job.key}: it ended well, but {path} cannot be read ({error})") from error
    # An evaluation by hand may have overwritten it
    if results.pop("context", None) != job.key.kind:
        raise UserError(f"{path} is that of another context: delete {job.folder} to do the row again")
    return results


def locked(output: Path) -> AbstractContextManager[int]:
    """Hold the lock of an output folder; yields its descriptor, which child processes may inherit (`locked_file`).

    Raises:
        UserError: another process has it.
    """
    return locked_file(output / LOCK, "trainings")


def provenance() -> dict[str, Any]:
    """Commit of the source (None without git), versions of what results depend on, and the host."""
    names = ("torch", "torchvision", "numpy", "opencv-python", "pycocotools")
    versions: dict[str, str | None] = {"vod2": __version__, "python": platform.python_version(), "backend": BACKEND}
    versions["cuda"] = torch.version.cuda
    for name in names:
        # Not all are installed everywhere, and OpenCV comes under several names
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"commit": _commit(), "versions": versions, "host": socket.gethostname()}


def _commit() -> str | None:
    """Of the folder that this file is in; with "+" if files that git knows have been changed since."""
    git, folder = shutil.which("git"), Path(__file__).parent
    if git is None:
        return None

    def answer(*words: str) -> str | None:
        done = subprocess.run([git, *words], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    head = answer("rev-parse", "HEAD")
    return head and head + ("+" if answer("status", "--porcelain", "--untracked-files=no") else "")
