#!/usr/bin/env python3
"""Pictures of an evaluation: precision-recall curves, and average precision by class, motion and deterioration.

    python tools/plot_results.py output/inference/synthetic_vid_val

RESULTS_DIR is the folder that VIDEvaluator wrote to (its curves.npz is read). The pictures, precision_recall.png and
average_precision.png, go to --output, by default into the same folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vod2.atomic import replacing
from vod2.engine import cli
from vod2.evaluation.curves import CURVES_FILE, CurveTable, load_curves, mean_average_precision, mean_envelope
from vod2.evaluation.motion import SPEEDS

_RECALL = np.linspace(0, 1, 101)
_COLUMN = 20  # names in a column of a legend


def precision_recall_figure(table: CurveTable) -> Figure:
    """The mean curve of each group on the left, the curve of each class (all objects) on the right."""
    average = 100 * table.average_precision()
    figure = Figure(figsize=(15, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    named = [
        (name, mean_envelope(row, _RECALL), mean_average_precision(ap))
        for name, row, ap in zip(table.groups, table.curves, average, strict=True)
    ]
    draw_curves(left, "Mean over classes", named)
    named = [
        (name, mean_envelope([curve], _RECALL), ap)
        for name, curve, ap in zip(table.classes, table.curves[0], average[0], strict=True)
    ]
    draw_curves(right, "All objects, by class", named)
    return figure


def draw_curves(axes: Axes, title: str, named: Sequence[tuple[str, np.ndarray, float]]) -> None:
    """Curves (name, precision at _RECALL, AP in percent), best first; those without ground truth are left out."""
    named = sorted((row for row in named if not np.isnan(row[2])), key=lambda row: -row[2])
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, max(len(named), 1)))
    for (name, precision, ap), color in zip(named, colors, strict=False):
        axes.plot(_RECALL, precision, color=color, linewidth=1.3, label=f"{name} {ap:.1f}")
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if named:
        columns = -(-len(named) // _COLUMN)
        axes.legend(title="AP50", fontsize="small", ncols=columns, loc="upper left", bbox_to_anchor=(1, 1))


def average_precision_figure(table: CurveTable) -> Figure:
    """Bars of AP50: of each class, of groups by motion and of groups of frames, where there are such groups."""
    average = 100 * table.average_precision()
    of_group = {name: mean_average_precision(row) for name, row in zip(table.groups, average, strict=True)}
    others = [name for name in table.groups if name != "all" and name not in SPEEDS]
    panels = [("by class", sorted(zip(table.classes, average[0], strict=True), key=lambda row: np.nan_to_num(row[1])))]
    for title, names in (("by motion", SPEEDS), ("by deterioration and other groups", others)):
        bars = [(name, of_group[name]) for name in ("all", *names) if name in of_group]
        if len(bars) > 2:  # "clean" alone means that nothing is known to be deteriorated
            panels.append((title, bars[::-1]))
    heights = [len(bars) + 1 for _, bars in panels]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.8 * len(panels)), layout="constrained")
    for axes, (title, bars) in zip(
        figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0], panels, strict=True
    ):
        draw_bars(axes, title, bars)
    return figure


def draw_bars(axes: Axes, title: str, bars: Sequence[tuple[str, float]]) -> None:
    """Bars (name, AP in percent) from the bottom up; "no objects" where AP is NaN."""
    names, values = [name for name, _ in bars], [value for _, value in bars]
    axes.barh(range(len(bars)), np.nan_to_num(values), color="steelblue", height=0.7)
    for position, value in enumerate(values):
        text = "no objects" if np.isnan(value) else f"{value:.1f}"
        axes.text(np.nan_to_num(value) + 0.7, position, text, va="center", fontsize="small")
    axes.set(title=f"AP50 {title}", xlim=(0, 108), ylim=(-0.6, len(bars) - 0.4))
    axes.set_yticks(range(len(bars)), names)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results_dir", metavar="RESULTS_DIR", type=Path, help="the folder with curves.npz")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the pictures go (default: RESULTS_DIR)")
    args = parser.parse_args()
    table = load_curves(args.results_dir / CURVES_FILE)
    for name, draw in (("precision_recall", precision_recall_figure), ("average_precision", average_precision_figure)):
        path = (args.output or args.results_dir) / f"{name}.png"
        with replacing(path) as temporary:
            draw(table).savefig(temporary, dpi=120)
        print(f"Wrote {path}")


if __name__ == "__main__":
    cli.run(main)
