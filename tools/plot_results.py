#!/usr/bin/env python3
"""Pictures of an evaluation: precision-recall curves, and average precision by class, motion and deterioration.

    python tools/plot_results.py output/inference/synthetic_vid_val
    python tools/plot_results.py output/FasterRCNN/inference/synthetic_vid_val output/RDN/inference/synthetic_vid_val

RESULTS_DIR is the folder that VIDEvaluator wrote to (its curves.npz is read). The pictures, precision_recall.png and
average_precision.png, go to --output, by default into the same folder.

Of two folders one picture is drawn, class_differences.png, by default into the second: the classes whose AP50 the
second has improved most over the first, and those that have declined most, with the intervals that tools/compare.py
gives them, where both folders have detections.npz and truth.npz.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from vod2.atomic import replacing
from vod2.engine import cli
from vod2.errors import UserError
from vod2.evaluation.collect import DETECTIONS_FILE
from vod2.evaluation.comparison import compare_methods
from vod2.evaluation.curves import CURVES_FILE, CurveTable, load_curves
from vod2.evaluation.evaluated import TRUTH_FILE
from vod2.evaluation.figures import average_precision_figure, precision_recall_figure
from vod2.evaluation.runs import find_results, name_of_results, read_run, refuse_differences, tally_run


class ClassDifference(NamedTuple):
    """AP50 of a class in percent, of the first and the second evaluation, and the interval of second - first, NaN where
    there is none."""

    name: str
    first: float
    second: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def difference(self) -> float:
        """second - first."""
        return self.second - self.first


def class_differences(first: Path, second: Path) -> list[ClassDifference]:
    """Those of all classes that both evaluations have objects of, the most improved first.

    Raises:
        UserError: the two are no evaluations of the same dataset.
    """
    # Intervals need the detections themselves, which folders of older evaluations lack.
    if all((folder / name).is_file() for folder in (first, second) for name in (DETECTIONS_FILE, TRUTH_FILE)):
        rows = _differences_with_intervals(first, second)
    else:
        rows = _differences_of_curves(load_curves(first / CURVES_FILE), load_curves(second / CURVES_FILE))
    return sorted((row for row in rows if not np.isnan(row.difference)), key=lambda row: -row.difference)


def _differences_with_intervals(first: Path, second: Path) -> list[ClassDifference]:
    """With the intervals of tools/compare.py: its number of resamples, and its seed."""
    runs = [read_run(first), read_run(second)]
    refuse_differences(runs)
    names = runs[0].data.class_names
    methods = {"first": [tally_run(runs[0])], "second": [tally_run(runs[1])]}
    result = compare_methods(methods, names, np.random.default_rng(0))
    difference_of = {difference.metric: difference for difference in result.differences}
    rows = []
    for name in names:
        difference = difference_of.get(f"AP50-{name}")
        if difference is not None:  # a class without objects has none
            rows.append(ClassDifference(name, difference.baseline, difference.value, difference.low, difference.high))
    return rows


def _differences_of_curves(first: CurveTable, second: CurveTable) -> list[ClassDifference]:
    """Without intervals."""
    first_objects = [curve.positives for curve in first.curves[0]]
    second_objects = [curve.positives for curve in second.curves[0]]
    for subject, in_first, in_second in (
        ("classes", first.classes, second.classes),
        ("numbers of objects", first_objects, second_objects),
    ):
        if in_first != in_second:
            raise UserError(
                f"the two folders cannot be compared, their {subject} are {in_first} and {in_second}: evaluate both on "
                "one dataset"
            )
    in_first, in_second = 100 * first.average_precision()[0], 100 * second.average_precision()[0]
    rows = zip(first.classes, in_first, in_second, strict=True)
    return [ClassDifference(name, before, after) for name, before, after in rows]


def most_changed(rows: Sequence[ClassDifference], count: int) -> tuple[list[ClassDifference], list[ClassDifference]]:
    """At most `count` improved rows, the most improved first, and at most `count` declined ones, the worst first."""
    improved = [row for row in rows[:count] if row.difference > 0]
    declined = [row for row in rows[::-1][:count] if row.difference < 0]
    return improved, declined


def differences_figure(rows: Sequence[ClassDifference], count: int, names: Sequence[str]) -> Figure:
    """Bars of the differences, the most improved classes in the upper panel, the most declined in the lower one."""
    improved, declined = most_changed(rows, count)
    panels = [("most improved", improved, "seagreen"), ("most declined", declined, "indianred")]
    panels = [(title, changed, color) for title, changed, color in panels if changed]
    if not panels:
        raise UserError("no class has improved or declined: both evaluations have the same AP50 of each")
    heights = [len(changed) + 1 for _, changed, _ in panels]
    figure = Figure(figsize=(8, 0.32 * sum(heights) + 0.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), height_ratios=heights, squeeze=False, sharex=True)[:, 0]
    for axes, (title, changed, color) in zip(grid, panels, strict=True):
        places = np.arange(len(changed))
        axes.barh(places, [row.difference for row in changed], color=color, height=0.6)
        # Intervals, and a stroke at each of their ends.
        low = np.array([row.low for row in changed])
        high = np.array([row.high for row in changed])
        has_interval = ~np.isnan(low)
        axes.hlines(places[has_interval], low[has_interval], high[has_interval], color="black", linewidth=1)
        ends = np.concatenate([low[has_interval], high[has_interval]])
        axes.plot(ends, np.tile(places[has_interval], 2), "|", color="black", markersize=6)
        labels = [f"{row.name}  {row.first:.1f} \u2192 {row.second:.1f}" for row in changed]
        axes.set_yticks(places, labels)
        axes.set(title=f"{title}: AP50 of {names[1]} less that of {names[0]}", ylim=(len(changed) - 0.4, -0.6))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def difference_table(rows: Sequence[ClassDifference]) -> str:
    """All classes with their interval, "-" where there is none."""
    lines = []
    for row in rows:
        interval = "-" if np.isnan(row.low) else f"{row.low:+.1f} to {row.high:+.1f}"
        lines.append([row.name, f"{row.first:.1f}", f"{row.second:.1f}", f"{row.difference:+.1f}", interval])
    return tabulate(lines, ["AP50", "first", "second", "difference", "95% interval"], disable_numparse=True)


def save(figure: Figure, path: Path) -> None:
    """Write the picture and say so."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    print(f"Wrote {path}")


def _folder_of(folder: Path) -> Path:
    """The folder of results that `given` is, or holds."""
    return folder if (folder / CURVES_FILE).is_file() else find_results(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results_dir", metavar="RESULTS_DIR", type=Path, help="the folder with curves.npz")
    parser.add_argument(
        "other_dir", metavar="OTHER_DIR", type=Path, nargs="?", help="another one, compared with the first by class"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the pictures go (default: the last folder)")
    parser.add_argument(
        "--count", type=int, default=5, metavar="N", help="of two folders: classes that are drawn of each kind (5)"
    )
    return parser


def main() -> None:
    parser = _parser()
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count {args.count}: expected at least 1")
    if args.other_dir is not None:
        folders = [_folder_of(args.results_dir), _folder_of(args.other_dir)]
        rows = class_differences(*folders)
        figure = differences_figure(rows, args.count, [name_of_results(folder) for folder in folders])
        print(difference_table(rows))
        save(figure, (args.output or folders[1]) / "class_differences.png")
        return
    table = load_curves(args.results_dir / CURVES_FILE)
    for name, draw in (("precision_recall", precision_recall_figure), ("average_precision", average_precision_figure)):
        save(draw(table), (args.output or args.results_dir) / f"{name}.png")


if __name__ == "__main__":
    cli.run(main)
