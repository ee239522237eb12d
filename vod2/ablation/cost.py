"""What a plan is expected to cost: stated in the suite, or measured."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from vod2.ablation.execution import Executor, last_line
from vod2.ablation.plan import TRAIN, Job, JobKey, Plan
from vod2.ablation.records import Records
from vod2.atomic import write_json
from vod2.bounded import load_json
from vod2.errors import UserError

MEASURED_ITERATIONS = 10
_FILE = "seconds_per_iteration.json"


def measured_seconds(output: Path, device: str) -> dict[str, float]:
    """{row: seconds of an iteration} that `measure` has written for a device; {} where it has not.

    Raises:
        UserError: the file is broken.
    """
    path = output / _FILE
    try:
        seconds = load_json(path.read_text(encoding="utf-8")).get(device, {})
        if strange := [row for row, value in seconds.items() if not isinstance(value, int | float)]:
            raise ValueError(f"{strange[0]!r} has no number of seconds")
        return seconds
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it") from error


def measure(
    plan: Plan, executor: Executor, train_net: str, device: str, progress: Callable[[str], None] = print
) -> dict[str, float]:
    """Train every row that is wanted for a few iterations, one after the other, and write what one takes.

    Nothing of these trainings is kept.

    Returns:
        {row: seconds of an iteration}: the median of the last of `MEASURED_ITERATIONS`.

    Raises:
        UserError: if a row cannot be trained; ends with what its process printed last.
    """
    plan.output.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    for key, job in plan.jobs.items():
        # All seeds of a row take the same time
        if key in plan.wanted and key.kind == TRAIN and key.row not in seconds:
            seconds[key.row] = _seconds(job, executor, train_net, plan.output)
            progress(f"{key.row}: {seconds[key.row]:.3f} s an iteration")
    path = plan.output / _FILE
    # Keeps what was measured for other devices and rows
    before = measured_seconds(plan.output, device)
    earlier = load_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, earlier | {device: before | seconds})
    return seconds


def _seconds(job: Job, executor: Executor, train_net: str, output: Path) -> float:
    with tempfile.TemporaryDirectory(dir=output, prefix=".estimate-") as folder:
        log, metrics = Path(folder, "log.txt"), Path(folder, "metrics.json")
        # Weights make no difference to the time, and those of a base may not be there yet.
        opts = ["OUTPUT_DIR", folder, "MODEL.WEIGHTS", "", "SOLVER.MAX_ITER", str(MEASURED_ITERATIONS)]
        outcome = executor.submit([sys.executable, train_net, *job.words, *opts], str(log)).result()
        if outcome.returncode or not metrics.is_file():
            raise UserError(f"{job.key.row} cannot be trained: {last_line(log)}")
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    # The first iterations are slower; the last line has the median of all
    return next(line["time"] for line in reversed(lines) if "time" in line)


def render_plan(plan: Plan, records: Records, slots: int) -> str:
    """A table of the rows that are wanted and what is left to do of them, and the expected time of all.

    Args:
        plan, records: what is to be done, and what is done.
        slots: jobs at once.
    """
    to_do = list(records.left().values())
    lines = []
    for name, row in plan.suite.rows.items():
        wanted = [key for key in plan.wanted if key.row == name]
        if not wanted:
            continue
        row_to_do = [job for job in to_do if job.key.row == name]
        wanted_kinds = {key.kind for key in wanted}
        kinds = [kind for kind in (TRAIN, *row.contexts) if kind in wanted_kinds]  # in the order of the suite
        lines.append(
            [
                name,
                row.config.name,
                row.base or (f"weights of {row.weights_of}" if row.weights_of else ""),
                str(plan.iterations.get(name, "")),
                " ".join(kinds),
                str(len({key.seed for key in wanted})),
                f"{len(row_to_do)} of {len(wanted)}",
                _cost(row_to_do),
            ]
        )
    headers = ["row", "configuration", "starts from", "iterations", "jobs", "seeds", "to do", "expected"]
    table = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    expected = f"{_cost(to_do)}{_side_by_side(to_do, slots)}"
    return f"{table}\n\n{len(to_do)} jobs to do, {slots} at once; expected: {expected}\n"


def _cost(jobs: list[Job]) -> str:
    seconds = [job.seconds for job in jobs if job.seconds is not None]
    num_unknown = len(jobs) - len(seconds)
    if not seconds:
        return "unknown" if num_unknown else "nothing"
    return time_of(sum(seconds)) + (f" + {num_unknown} unknown" if num_unknown else "")


def _side_by_side(jobs: list[Job], slots: int) -> str:
    """The time until all is done: the work shared by the slots, or the longest chain of jobs that wait for another."""
    seconds = {job.key: job.seconds for job in jobs if job.seconds is not None}
    if slots == 1 or not seconds:
        return ""
    needs = {job.key: job.needs for job in jobs}

    def chain(key: JobKey | None) -> float:
        # A job that is done takes no time and waits for nothing
        return 0.0 if key not in needs else seconds.get(key, 0.0) + chain(needs[key])

    longest = max(chain(key) for key in seconds)
    return f" of one process, at least {time_of(max(sum(seconds.values()) / slots, longest))} side by side"


def time_of(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> time_of(45), time_of(750), time_of(7560)
        ('45 s', '12 min', '2.1 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
