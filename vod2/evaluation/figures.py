"""Pictures of an evaluation's curves: precision over recall, and average precision by class and group.

They are Matplotlib's `Figure`s of their own, without pyplot: no display is needed, and nothing is kept in the process.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vod2.evaluation.curves import CurveTable, mean_average_precision, mean_envelope
from vod2.evaluation.motion import SPEEDS

_RECALL = np.linspace(0, 1, 101)
_COLUMN = 20  # names in a column of a legend


def precision_recall_figure(table: CurveTable) -> Figure:
    """The mean curve of each group on the left, the curve of each class (all objects) on the right."""
    average = 100 * table.average_precision()
    figure = Figure(figsize=(15, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    group_curves = []
    for group, curves, ap in zip(table.groups, table.curves, average, strict=True):
        group_curves.append((group, mean_envelope(curves, _RECALL), mean_average_precision(ap)))
    draw_curves(left, "Mean over classes", group_curves)
    class_curves = []  # the first group is all objects
    for name, curve, ap in zip(table.classes, table.curves[0], average[0], strict=True):
        class_curves.append((name, mean_envelope([curve], _RECALL), ap))
    draw_curves(right, "All objects, by class", class_curves)
    return figure


def draw_curves(axes: Axes, title: str, named: Sequence[tuple[str, np.ndarray, float]]) -> None:
    """Curves (name, precision at _RECALL, AP in percent), best first; those without ground truth are left out."""
    # The best first, so that the legend reads from the top down.
    named = sorted((row for row in named if not np.isnan(row[2])), key=lambda row: -row[2])
    # The ends of the map are too dark to be told apart.
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, max(len(named), 1)))
    for (name, precision, ap), color in zip(named, colors, strict=False):
        axes.plot(_RECALL, precision, color=color, linewidth=1.3, label=f"{name} {ap:.1f}")
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if named:
        columns = math.ceil(len(named) / _COLUMN)
        axes.legend(title="AP50", fontsize="small", ncols=columns, loc="upper left", bbox_to_anchor=(1, 1))


def average_precision_figure(table: CurveTable) -> Figure:
    """Bars of AP50: of each class, of groups by motion and of groups of frames, where there are such groups."""
    average = 100 * table.average_precision()
    ap_of_group = {name: mean_average_precision(row) for name, row in zip(table.groups, average, strict=True)}
    other_groups = [name for name in table.groups if name != "all" and name not in SPEEDS]
    ap_of_class = zip(table.classes, average[0], strict=True)
    # NaN has no order: a class without objects counts as 0 and ends at the bottom.
    panels = [("by class", sorted(ap_of_class, key=lambda bar: np.nan_to_num(bar[1])))]
    for title, names in (("by motion", SPEEDS), ("by deterioration and other groups", other_groups)):
        bars = [(name, ap_of_group[name]) for name in ("all", *names) if name in ap_of_group]
        if len(bars) > 2:  # "clean" alone means that nothing is known to be deteriorated
            # Bars are drawn from the bottom up.
            panels.append((title, bars[::-1]))
    heights = [len(bars) + 1 for _, bars in panels]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.8 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, (title, bars) in zip(grid, panels, strict=True):
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
