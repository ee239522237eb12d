"""Means and deviations over seeds, differences with intervals, tables.

n: seeds.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

from tabulate import tabulate

from vod2.ablation.plan import TRAIN, JobKey, Plan

Metrics = Mapping[JobKey, Mapping[str, Mapping[str, float | None]]]
"""{evaluation: {data set: {"task/metric": value}}} of those that are done."""

# Quantile .975 of Student's t with 1 ... 10 degrees of freedom; beyond, `_t_quantile` is exact to .001.
_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class Interval(NamedTuple):
    """The mean of paired differences and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def paired_interval(differences: Sequence[float]) -> Interval | None:
    """mean +- t(.975, n - 1) s / sqrt(n) of n differences, one for each seed; None for fewer than two.

    It is the interval for what changes with the seed of training. The videos of the data set are the same in all.

    Example:
        >>> [round(value, 2) for value in paired_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48]
    """
    if len(differences) < 2:
        return None
    middle = mean(differences)
    half = _t_quantile(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return Interval(middle, middle - half, middle + half)


def _t_quantile(freedom: int) -> float:
    """Quantile .975 of Student's t; the first terms of its expansion in 1 / freedom (Abramowitz, Stegun 26.7.5)."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def render_report(plan: Plan, metrics: Metrics) -> str:
    """Markdown: for every data set and metric of the suite, each row and context with its mean over the seeds.

    The own context of a row is compared to that of the row that `Suite.compared_to` names, its other contexts to its
    own one; differences are those of equal seeds. The first metric of a suite whose rows stand for rows of papers also
    has the papers' gains in mAP, and whether the difference has their direction (`direction`).
    """
    datasets = sorted({name for job in plan.jobs.values() for name in job.datasets})
    parts = [f"# {plan.suite.name}, {plan.size}"]
    for dataset in datasets:
        for metric in plan.suite.metrics:
            with_papers = metric == plan.suite.metrics[0]
            table = _Table(plan, metrics, dataset, metric, with_papers)
            if lines := table.lines():
                parts += [f"## {dataset}: {metric}", tabulate(lines, table.headers, "github", disable_numparse=True)]
    if len(parts) == 1:
        parts.append("Nothing is evaluated yet.")
    return "\n\n".join(parts) + "\n"


def direction(difference: Interval | None, gain: float) -> str:
    """Whether a difference has the direction of a paper's gain: only where its interval says that it has one.

    Example:
        >>> direction(Interval(2.0, 0.5, 3.5), 0.9), direction(Interval(2.0, -0.5, 4.5), 0.9)
        ('as in the paper', 'no difference shown')
    """
    if difference is None:
        return "one seed"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "as in the paper" if difference.mean * gain > 0 else "not as in the paper"


_HEADERS = ["row", "context", "n", "mean (deviation)", "compared to", "difference", "95% interval"]
_PAPER_HEADERS = ["in the paper", "direction"]


class _Table:
    """One metric on one data set."""

    def __init__(self, plan: Plan, metrics: Metrics, dataset: str, metric: str, with_papers: bool) -> None:
        self._suite = plan.suite
        self._with_papers = with_papers and any(row.paper_gain is not None for row in plan.suite.rows.values())
        self.headers = [*_HEADERS, *(_PAPER_HEADERS if self._with_papers else [])]
        # In the order of the suite, which is that of the table
        evaluations = [job.key for job in plan.jobs.values() if job.key.kind != TRAIN]
        self._pairs = list(dict.fromkeys((key.row, key.kind) for key in evaluations))
        self._values: dict[tuple[str, str], dict[int, float]] = {pair: {} for pair in self._pairs}
        for key in evaluations:
            value = metrics.get(key, {}).get(dataset, {}).get(metric)
            # A metric without ground truth is null in the record
            if value is not None:
                self._values[key.row, key.kind][key.seed] = value

    def lines(self) -> list[list[str]]:
        """One for each row and context that has a number."""
        lines = [self._line(row, context) for row, context in self._pairs if self._values[row, context]]
        return [line + [""] * (len(self.headers) - len(line)) for line in lines]

    def _line(self, row: str, context: str) -> list[str]:
        values = self._values[row, context]
        spread = f" ({stdev(values.values()):.2f})" if len(values) > 1 else ""
        line = [row, context, str(len(values)), f"{mean(values.values()):.2f}{spread}"]
        baseline = self._suite.compared_to(row) if context == "own" else row
        baseline_values = {} if baseline is None else self._values.get((baseline, "own"), {})
        # Paired by seed, so that what two runs share cancels
        differences = [value - baseline_values[seed] for seed, value in values.items() if seed in baseline_values]
        if baseline is None or not differences:
            return line
        interval = paired_interval(differences)
        ends = "" if interval is None else f"[{interval.low:+.2f}, {interval.high:+.2f}]"
        line += ["own" if baseline == row else baseline, f"{mean(differences):+.2f}", ends]
        gain = self._suite.rows[row].paper_gain
        if self._with_papers and context == "own" and gain is not None:
            line += [f"{gain:+.1f}", direction(interval, gain)]
        return line
