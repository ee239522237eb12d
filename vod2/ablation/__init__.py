"""Suites of trainings and evaluations: what is run, in what order, and what came of it. See docs/ablations.md."""

from vod2.ablation.comparison import Comparison, comparisons
from vod2.ablation.cost import measure, measured_seconds, render_plan
from vod2.ablation.execution import Executor, LocalExecutor, Outcome, RayExecutor, execute
from vod2.ablation.plan import Job, JobKey, Plan, make_plan
from vod2.ablation.records import Records, locked, provenance
from vod2.ablation.report import Interval, paired_interval, render_report
from vod2.ablation.suite import Row, Size, Suite, load_suite

__all__ = [
    "Comparison",
    "Executor",
    "Interval",
    "Job",
    "JobKey",
    "LocalExecutor",
    "Outcome",
    "Plan",
    "RayExecutor",
    "Records",
    "Row",
    "Size",
    "Suite",
    "comparisons",
    "execute",
    "load_suite",
    "locked",
    "make_plan",
    "measure",
    "measured_seconds",
    "paired_interval",
    "provenance",
    "render_plan",
    "render_report",
]
