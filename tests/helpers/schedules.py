"""What docs/schedules.yaml makes of each configuration, and the tables of docs/schedules.md.

`python -m helpers.schedules` (in tests) prints the tables.
"""

import math
from pathlib import Path
from typing import NamedTuple

import yaml

from helpers.models import ROOT

FACTS = yaml.safe_load(Path(ROOT, "docs", "schedules.yaml").read_text())


class Solver(NamedTuple):
    """Keys of SOLVER, all but the rates whole numbers."""

    ims_per_batch: int
    base_lr: float
    weight_decay: float
    steps: tuple[int, ...]
    max_iter: int


def solver_of(schedule: dict) -> Solver:
    """The keys that make a mean over the batch do what the authors' code does.

    An update that has begun counts. A sum over n devices: lr * (sum g + wd * w) = (n * lr) * (mean g + wd / n * w).
    """
    devices = schedule["devices"]
    factor = devices if schedule["gradient"] == "sum" else 1
    return Solver(
        ims_per_batch=devices * schedule.get("clips", 1),
        base_lr=schedule["lr"] * factor,
        weight_decay=schedule["weight_decay"] / factor,
        steps=tuple(updates_of(schedule, drop) for drop in schedule.get("epoch_drops", ())) or tuple(schedule["drops"]),
        max_iter=schedule["updates"] if "updates" in schedule else updates_of(schedule, schedule["epochs"]),
    )


def updates_of(schedule: dict, epochs: float) -> int:
    return math.ceil(round(epochs * FACTS["samples"][schedule["samples"]] / schedule["devices"], 6))


def epochs_of(schedule: dict, updates: int) -> str:
    if "samples" not in schedule:
        return "-"
    return f"{updates * schedule['devices'] / FACTS['samples'][schedule['samples']]:.2f}"


def fact_rows() -> list[str]:
    """Of the table of the authors' schedules."""
    rows = []
    for name, schedule in FACTS["schedules"].items():
        solver = solver_of(schedule)
        samples = f"{FACTS['samples'][schedule['samples']]:,}" if "samples" in schedule else "-"
        images = f"{schedule['devices']} x {schedule.get('clips', 1)}"
        drops = ", ".join(epochs_of(schedule, step) for step in solver.steps)
        cells = [name, schedule["source"], images, samples, epochs_of(schedule, solver.max_iter), drops]
        cells += [f"{solver.max_iter:,}", number(schedule["lr"]), number(schedule["weight_decay"])]
        rows.append("| " + " | ".join([*cells, schedule["gradient"]]) + " |")
    return rows


def configuration_rows() -> list[str]:
    """Of the table of what the configurations have."""
    rows = []
    for name, configurations in FACTS["configurations"].items():
        solver = solver_of(FACTS["schedules"][name])
        steps = ", ".join(map(str, solver.steps))
        cells = [name, ", ".join(configurations), str(solver.ims_per_batch), number(solver.base_lr)]
        rows.append("| " + " | ".join([*cells, number(solver.weight_decay), steps, str(solver.max_iter)]) + " |")
    return rows


def number(value: float) -> str:
    return f"{value:.7f}".rstrip("0").removeprefix("0")


if __name__ == "__main__":
    print("\n".join([*fact_rows(), "", *configuration_rows()]))
