"""How sure the difference of two methods is: a paired bootstrap over videos, and over runs where there are several.

Shape alphabet: B resamples, V videos, S runs (seeds) of a method.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vod2.evaluation.bootstrap import (
    draw_runs,
    draw_videos,
    mean_of_drawn,
    percentile_interval,
    weighted_average_precision,
    weighted_mean,
)
from vod2.evaluation.runs import RunTally

MIN_VIDEOS = 8
"""With fewer videos that have objects, resamples are too much alike: an interval that says 95% holds the truth in under
90% of simulated datasets."""

TRACK_METRICS = ("flicker", "delay")
LOWER_IS_BETTER = frozenset(TRACK_METRICS)
BETTER, WORSE, NONE_SHOWN, TOO_FEW = "better", "worse", "no difference shown", "too few videos"


class Difference(NamedTuple):
    """One metric of one method against the baseline.

    Attributes:
        method, metric: names; the metric is called as in results.json.
        value, baseline: of the method and of the baseline, the mean over their runs. AP in percent.
        difference: value - baseline.
        low, high: the interval of the difference; NaN where the verdict is `TOO_FEW`.
        videos: videos that have what the metric is about.
        verdict: `BETTER` or `WORSE` where the interval does not hold 0, `NONE_SHOWN` where it does, `TOO_FEW`.
    """

    method: str
    metric: str
    value: float
    baseline: float
    difference: float
    low: float
    high: float
    videos: int
    verdict: str


class Comparison(NamedTuple):
    """Of all methods with the first.

    Attributes:
        values: method -> metric -> the values (S,) of its runs.
        differences: of each other method and metric.
    """

    values: dict[str, dict[str, np.ndarray]]
    differences: list[Difference]


def compare_methods(
    methods: Mapping[str, Sequence[RunTally]],
    class_names: Sequence[str],
    generator: np.random.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
    are_runs_paired: bool = False,
) -> Comparison:
    """Compare methods with the first of them.

    All methods meet the same resamples of videos. The runs of each are resampled by themselves (`draw_runs`), or where
    they are paired, together. The interval is the middle of the resampled differences.

    Args:
        methods: the runs of each, all of the same dataset.
        class_names: K names.
        resamples: B.
        confidence: of the interval.
        are_runs_paired: run i of a method has something in common with run i of the others, such as its weights.

    Raises:
        ValueError: paired runs, of which the methods do not have the same number.
    """
    if are_runs_paired and len({len(of_method) for of_method in methods.values()}) > 1:
        raise ValueError("paired runs: the methods have different numbers of them")
    runs = [run for of_method in methods.values() for run in of_method]
    weights = draw_videos(len(runs[0].track_count), resamples, generator)
    weights = np.concatenate([np.ones((1, weights.shape[1])), weights])  # the dataset itself first
    # Of each method and metric: the values of its runs on the dataset (S,), and the mean over resampled runs on each
    # resample of the videos (B,).
    values: dict[str, dict[str, np.ndarray]] = {}
    samples: dict[str, dict[str, np.ndarray]] = {}
    drawn: np.ndarray | None = None
    for method, of_method in methods.items():
        # (S, 1 + B, metrics) together, so that runs are drawn once for all metrics.
        of_runs = [resampled_metrics(run, class_names, weights) for run in of_method]
        metrics = list(of_runs[0])
        of_metrics = [np.stack([of_run[metric] for of_run in of_runs]) for metric in metrics]  # (S, 1 + B) each
        stacked = np.stack(of_metrics, axis=-1)
        if drawn is None or not are_runs_paired:
            drawn = draw_runs(len(of_method), resamples, generator)
        means = mean_of_drawn(stacked[:, 1:], drawn)  # (B, metrics)
        values[method] = {metric: stacked[:, 0, column] for column, metric in enumerate(metrics)}
        samples[method] = {metric: means[..., column] for column, metric in enumerate(metrics)}

    baseline, *others = methods
    videos = count_videos(runs[0], class_names)
    differences = []
    for method in others:
        for metric in values[method]:
            difference = _difference(
                method,
                metric,
                value=float(values[method][metric].mean()),
                baseline=float(values[baseline][metric].mean()),
                samples=samples[method][metric] - samples[baseline][metric],
                videos=videos[metric],
                confidence=confidence,
            )
            differences.append(difference)
    return Comparison(values, differences)


def _difference(
    method: str,
    metric: str,
    value: float,
    baseline: float,
    samples: np.ndarray,
    videos: int,
    confidence: float,
) -> Difference:
    """With the verdict that the middle of the resampled differences, `samples` (B,), allows."""
    low, high = percentile_interval(samples, confidence)
    if videos < MIN_VIDEOS or np.isnan(low):
        low, high, verdict = float("nan"), float("nan"), TOO_FEW
    elif low <= 0 <= high:
        verdict = NONE_SHOWN
    else:
        # Where lower is better, a difference above 0 is for the worse.
        verdict = BETTER if (low > 0) != (metric in LOWER_IS_BETTER) else WORSE
    return Difference(method, metric, value, baseline, value - baseline, low, high, videos, verdict)


def resampled_metrics(run: RunTally, class_names: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of a run on resamples of its dataset, by their names in results.json; those that no object or
    track is there for are left out.

    Args:
        weights: (B, V) how often each video comes.

    Returns:
        (B,) each, AP in percent; NaN where a resample has no object or track for it.
    """
    of_classes = {}  # of each group, (K, B)
    for group, tallies in run.groups.items():
        of_classes[group] = 100 * np.stack([weighted_average_precision(tally, weights) for tally in tallies])

    metrics = {"AP50": _nan_mean(of_classes["all"])}
    metrics["AP50-any-class"] = 100 * weighted_average_precision(run.any_class, weights)
    for name in TRACK_METRICS:
        metrics[name] = weighted_mean(run.track_sums[name], run.track_count, weights)
    for group, values in of_classes.items():
        if group != "all":
            metrics[f"AP50-{group}"] = _nan_mean(values)
    for name, values in zip(class_names, of_classes["all"], strict=True):
        metrics[f"AP50-{name}"] = values
    videos = count_videos(run, class_names)
    # A metric without any object is NaN on every resample, and there is nothing to compare.
    return {name: values for name, values in metrics.items() if videos[name]}


def count_videos(run: RunTally, class_names: Sequence[str]) -> dict[str, int]:
    """How many videos have an object (or track) that each metric is about."""
    # Of each group, for every class the numbers of the videos with such objects.
    with_objects: dict[str, list[np.ndarray]] = {}
    for group, tallies in run.groups.items():
        with_objects[group] = [np.flatnonzero(tally.positives) for tally in tallies]

    videos = {"AP50": with_objects["all"], "AP50-any-class": with_objects["all"]}
    for name in TRACK_METRICS:
        videos[name] = [np.flatnonzero(run.track_count)]
    for group, of_classes in with_objects.items():
        if group != "all":
            videos[f"AP50-{group}"] = of_classes
    for name, of_class in zip(class_names, with_objects["all"], strict=True):
        videos[f"AP50-{name}"] = [of_class]
    return {name: len(np.unique(np.concatenate(numbers))) for name, numbers in videos.items()}  # each video once


def _nan_mean(per_class: np.ndarray) -> np.ndarray:
    """The mean (B,) over the classes of rows (K, B) that are not NaN there; NaN where all are."""
    is_number = ~np.isnan(per_class)
    count = is_number.sum(axis=0)
    total = np.where(is_number, per_class, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(per_class.shape[1], np.nan), where=count > 0)
