"""Which steps there are, in order of worth, and how much of the time each may take. Standard library only."""

from typing import NamedTuple


class PlannedStep(NamedTuple):
    """One step of the report.

    Attributes:
        name: as `--only` and the report name it.
        module: what `python -m gpu_steps.run` imports; it has a function `run(step)`.
        share: of all minutes, what it may take at most. The shares add up to more than 1: what a step leaves is there
            for those after it.
    """

    name: str
    module: str
    share: float


STEPS = (
    PlannedStep("machine", "gpu_steps.machine", 0.10),
    PlannedStep("build", "gpu_steps.build", 0.45),
    PlannedStep("ops", "gpu_steps.ops", 0.20),
    PlannedStep("sanitizer", "gpu_steps.sanitizer", 0.15),
    PlannedStep("tests", "gpu_steps.tests", 0.25),
    PlannedStep("equality", "gpu_steps.equality", 0.20),
    PlannedStep("speed", "gpu_steps.speed", 0.35),
    PlannedStep("training", "gpu_steps.training", 0.30),
    PlannedStep("learning", "gpu_steps.learning", 0.70),
)

SHORTEST = 3.0
"""Seconds: a step that would have less is not started."""


def limit_of(step: PlannedStep, seconds: float, left: float) -> float:
    """Seconds that `step` may take, of `seconds` for the whole report and `left` of them; 0 if it is not worth it."""
    # A share of the whole: as long as there is time, the limit does not depend on the steps before.
    limit = min(step.share * seconds, left)
    return limit if limit >= SHORTEST else 0.0
