"""What the rows of a paper's table cost here, beside what the paper prints."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vod2.d2 import CfgNode, build_model
from vod2.engine.analysis import analyze, frame_seconds
from vod2.engine.row_tables import columns_of, markdown
from vod2.engine.rows import ConfigRow, RowFile
from vod2.engine.setup import load_config
from vod2.errors import UserError
from vod2.temporal import build_support_schedule

COST_COLUMNS = ("M", "GFLOP", "ms", "FPS")
"""Of `ConfigRow.paper`, what is no accuracy."""


class RowCost(NamedTuple):
    """Parameters, floating-point operations and seconds of a frame; None where no time was taken."""

    parameters: int
    flops: float
    seconds: float | None


def tables_of(rows: RowFile, names: Sequence[str]) -> list[str]:
    """Titles of the tables that are asked for, "4" for "Table 4"; without names, those that print a cost.

    Raises:
        UserError: there is no such table, or none prints a cost.
    """
    if not names:
        with_costs = [title for title in rows.tables if set(columns_of(rows.of(title))) & set(COST_COLUMNS)]
        if not with_costs:
            raise UserError(f"no table of {rows.path} prints a cost: name some of {', '.join(rows.tables)}")
        return with_costs
    titles = []
    for name in names:
        title = name if name in rows.tables else f"Table {name}"
        if title not in rows.tables:
            raise UserError(f"{rows.path} has no table {name!r}: expected some of {', '.join(rows.tables)}")
        titles.append(title)
    return titles


class CostMeter:
    """Measures rows; two that are one detector in one window are measured once.

    Args:
        size: (height, width) of the resized image, None for that of each row's INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST.
        timed: also take the time of a frame.
        overrides: `KEY VALUE ...` of all rows.
        progress: is told of each row that is measured.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        timed: bool = True,
        overrides: Sequence[str] = (),
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._size, self._timed, self._overrides, self._progress = size, timed, list(overrides), progress
        self._costs: dict[str, RowCost] = {}

    def measure(self, row: ConfigRow) -> RowCost:
        """The cost of a row. Of one with a linker no time is taken: linking is done once for a whole video.

        Raises:
            UserError: as `load_config`.
        """
        # Without weights, which may not exist; the cost does not depend on them
        cfg = load_config(str(row), [*self._overrides, "MODEL.WEIGHTS", ""])
        # What the cost depends on: rows that differ only in training share a measurement
        key = f"{cfg.MODEL}\n{cfg.VIDEO.TEST_SCHEDULE}\n{cfg.INPUT}\n{cfg.TEST.DETECTIONS_PER_IMAGE}"
        if key not in self._costs:
            self._progress(str(row))
            self._costs[key] = self._measure(cfg)
        return self._costs[key]

    def _measure(self, cfg: CfgNode) -> RowCost:
        size = self._size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        model, schedule = build_model(cfg), build_support_schedule(cfg)
        total = analyze(model, schedule, size)[-1]
        timed = self._timed and not cfg.MODEL.VIDEO.LINKER.NAME
        return RowCost(total.parameters, total.flops, frame_seconds(model, schedule, size) if timed else None)


def cost_table(rows: Sequence[ConfigRow], costs: Sequence[RowCost]) -> str:
    """Markdown: the paper's columns, here and in the paper.

    Times of two machines do not compare; their ratios to the first row that both have a time of do: "x first".
    """
    our_times = [None if cost.seconds is None else 1000 * cost.seconds for cost in costs]  # milliseconds
    their_times = [_milliseconds(row) for row in rows]
    # The first row with both times: two machines compare by ratios only
    first = None
    for number, (ours, theirs) in enumerate(zip(our_times, their_times, strict=True)):
        if ours is not None and theirs is not None:
            first = number
            break

    columns = {}
    for key in ("mAP", "M", "GFLOP"):
        columns[f"{key}, paper"] = [str(row.paper.get(key, "")) for row in rows]
    columns["ms, paper"] = [_number(value) for value in their_times]
    columns["x first, paper"] = _ratios(their_times, first)
    columns["M"] = [f"{cost.parameters / 1e6:.3f}" for cost in costs]
    columns["GFLOP"] = [f"{cost.flops / 1e9:.2f}" for cost in costs]
    if any(our_times):
        columns["ms"] = [_number(value) for value in our_times]
        columns["x first"] = _ratios(our_times, first)

    header = ["row", "what"]
    lines = [[row.name, row.what] for row in rows]
    for title, values in columns.items():
        if not any(values):  # the paper does not print it
            continue
        header.append(title)
        for line, value in zip(lines, values, strict=True):
            line.append(value)
    return markdown(header, lines)


def _milliseconds(row: ConfigRow) -> float | None:
    """What the paper says a frame takes, by itself or as frames per second."""
    if "ms" in row.paper:
        return row.paper["ms"]
    if "FPS" in row.paper:
        return 1000 / row.paper["FPS"]
    return None


def _ratios(values: Sequence[float | None], first: int | None) -> list[str]:
    base = None if first is None else values[first]
    return ["" if value is None or base is None else f"{value / base:.2f}" for value in values]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
