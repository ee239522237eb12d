"""A suite as it is written in YAML: rows to train and evaluate, in several sizes."""

import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from vod2.bounded import load_yaml
from vod2.data import CONTEXTS
from vod2.engine.rows import ConfigRow, config_name, find_row, find_test_setting, overrides_of, split_row
from vod2.errors import UserError


@dataclass(frozen=True)
class Row:
    """One configuration of a suite.

    Args:
        name: of the row, and of its folder.
        config: configuration, FILE or FILE:ROW.
        base: row whose final weights of the same seed this one starts from; None for the configuration's own weights.
        weights_of: row whose final weights of the same seed this one is evaluated with: another setting in inference,
            without a training. None for a row that is trained.
        compared_to: row that this one is compared to; None for the reference of the suite, or the base.
        paper_row: FILE:ROW of configs/ablations that this row stands for: it takes what that row overrides.
        paper_baseline: FILE:ROW of the same paper that its gain is over; None if not told.
        paper_gain: mAP of that row minus that of paper_baseline; None without one.
        overrides: {configuration key: value}, after those of the size; those of paper_row come first.
        iterations: SOLVER.MAX_ITER: one number, or {size: number}; None for that of the size or of the configuration.
        contexts: of `vod2.data.CONTEXTS`, to be evaluated.
        seconds_per_iteration: of training, on one device; None where it is not known.
        seconds_per_frame: of evaluation in the own context.
    """

    name: str
    config: Path
    base: str | None = None
    weights_of: str | None = None
    compared_to: str | None = None
    paper_row: str | None = None
    paper_baseline: str | None = None
    paper_gain: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    iterations: int | Mapping[str, int] | None = None
    contexts: tuple[str, ...] = ("own",)
    seconds_per_iteration: float | None = None
    seconds_per_frame: float | None = None


@dataclass(frozen=True)
class Size:
    """What all rows have in common at one size of a suite.

    Args:
        train, test: data sets; () for those of the configurations.
        iterations: of rows that say nothing; None for those of the configurations.
        overrides: {configuration key: value}.
        frames: in all data sets of `test`, to tell what evaluations cost; None where it is not known.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    iterations: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    frames: int | None = None


@dataclass(frozen=True)
class Suite:
    """Rows and sizes.

    Args:
        name: of the file.
        rows: {name: row}; a base stands before the rows that start from it.
        sizes: {name: size}.
        metrics: "task/metric" of the tables, such as "vid/AP50".
        reference: row that all others are compared to; None compares each with its base.
    """

    name: str
    rows: Mapping[str, Row]
    sizes: Mapping[str, Size]
    metrics: tuple[str, ...] = ("vid/AP50",)
    reference: str | None = None

    def compared_to(self, row: str) -> str | None:
        """The row that `row` is compared to, or None."""
        entry = self.rows[row]
        other = entry.compared_to or self.reference or entry.base or entry.weights_of
        return None if other == row else other


def load_suite(path: Path) -> Suite:
    """Read a suite; configuration files are named relative to its folder, as `_BASE_` is.

    One that `extends` another has its sizes, metrics and reference where it has none of its own, and may name rows of
    it in the place of describing them.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown, missing or of another type, a configuration does
            not exist, or a base, reference or context is not one of those that there are.

    Example:
        >>> load_suite(Path("configs/suites/quick.yaml")).rows["RDN"].base
        'FasterRCNN'
    """
    return _load(path, ())


def _load(path: Path, extending: tuple[Path, ...]) -> Suite:
    """A suite; `extending` are the files that lead to it."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"suite {str(path)!r} cannot be read ({error.strerror}): give its name or its file") from error
    except ValueError as error:
        raise UserError(f"{path}: no YAML of a suite ({' '.join(str(error).split())}): fix the file") from error
    return _Reader(path, extending).suite(content)


class _Reader:
    """Turns what YAML gave into a suite; every error names the file and the place in it."""

    def __init__(self, path: Path, extending: tuple[Path, ...]) -> None:
        self._path = path
        self._chain = (*extending, path.resolve())

    def suite(self, content: Any) -> Suite:
        # The suite's name is that of its file
        self._keys(content, "the file", Suite, excluded={"name"}, added={"extends"}, required={"rows"})
        extended = self._extended(content)
        self._type(content, "rows", list, "a list of rows", "the file")
        if extended is not None and "sizes" not in content:
            sizes = dict(extended.sizes)
        else:
            self._type(content, "sizes", dict, "a mapping {name: size}", "the file")
            sizes = {str(name): self._size(size or {}, f"size {name}") for name, size in content["sizes"].items()}
        # Filled in the order of the file: a base has to be above the rows that start from it
        rows: dict[str, Row] = {}
        for number, entry in enumerate(content["rows"], 1):
            if isinstance(entry, str):
                row = self._row_of(extended, entry, f"row {number}", sizes, rows)
            else:
                row = self._row(entry, f"row {number}", sizes, rows)
            rows[row.name] = row
        metrics = self._strings(content.get("metrics", list(extended.metrics if extended else ["vid/AP50"])), "metrics")
        if wrong := [metric for metric in metrics if metric.count("/") != 1]:
            self._fail("metrics", f"got {wrong[0]!r}, expected task/metric, such as vid/AP50")
        reference = content.get("reference", extended.reference if extended else None)
        if reference is not None and not (isinstance(reference, str) and reference in rows):
            self._fail("reference", f"there is no row {reference!r}: expected one of {', '.join(rows)}")
        return Suite(self._path.stem, rows, sizes, metrics, reference)

    def _extended(self, content: dict) -> Suite | None:
        """The suite that this one extends."""
        if "extends" not in content:
            if "sizes" not in content:
                self._fail("the file", "it has no sizes")
            return None
        path = self._path.parent / str(content["extends"])
        if path.resolve() in self._chain:
            self._fail("extends", f"{content['extends']} leads back to itself: expected a suite that stands alone")
        if not path.is_file():
            self._fail("extends", f"there is no {content['extends']} beside the suite")
        return _load(path, self._chain)

    def _row_of(
        self, extended: Suite | None, name: str, where: str, sizes: Mapping[str, Size], above: Mapping[str, Row]
    ) -> Row:
        """A row of the suite that this one extends."""
        if extended is None or name not in extended.rows:
            known = "a mapping" if extended is None else f"a mapping, or one of {', '.join(extended.rows)}"
            self._fail(where, f"got {name!r}, expected {known}")
        row = extended.rows[name]
        if name in above:
            self._fail(where, f"there are two rows of the name {name}")
        for key in ("base", "weights_of", "compared_to"):
            self._above(getattr(row, key), key, f"row {name}", above)
        self._iterations(row.iterations, f"row {name}", sizes)
        return row

    def _size(self, entry: Any, where: str) -> Size:
        self._keys(entry, where, Size)
        values = dict(entry)
        for key in ("train", "test"):
            values[key] = self._strings(entry.get(key, []), f"{where}: {key}")
        self._overrides(values, where)
        for key in ("iterations", "frames"):
            if values.get(key) is not None:
                self._count(values[key], f"{where}: {key}")
        return Size(**values)

    def _row(self, entry: Any, where: str, sizes: Mapping[str, Size], above: Mapping[str, Row]) -> Row:
        self._keys(entry, where, Row, excluded={"paper_gain"}, required={"name", "config"})
        name = str(entry["name"])
        where = f"row {name}"
        if not re.fullmatch(r"\w[\w.+-]*", name):
            self._fail(where, "its name is that of a folder, too: expected letters, digits and _ . + -")
        if name in above:
            self._fail(where, "there are two rows of this name")
        for key in ("base", "weights_of", "compared_to"):
            self._above(entry.get(key), key, where, above)
        self._evaluated_only(entry, where, above)
        config = self._config(entry, where)
        contexts = self._strings(entry.get("contexts", ["own"]), f"{where}: contexts")
        if unknown := [context for context in contexts if context not in CONTEXTS]:
            self._fail(where, f"context {unknown[0]!r}: expected some of {', '.join(CONTEXTS)}")
        values = dict(entry) | {"name": name, "config": config, "contexts": contexts}
        self._overrides(values, where)
        self._paper(values, where)
        if trained := values.get("weights_of"):
            # What the other was trained with holds here, too.
            values["overrides"] = dict(above[trained].overrides) | values["overrides"]
        self._iterations(values.get("iterations"), where, sizes)
        for key in ("seconds_per_iteration", "seconds_per_frame"):
            seconds = values.get(key)
            if seconds is not None and (not isinstance(seconds, int | float) or seconds <= 0):
                self._fail(where, f"{key} is {seconds!r}, expected a number above 0")
        return Row(**values)

    def _above(self, name: Any, key: str, where: str, above: Mapping[str, Row]) -> None:
        if name is not None and not (isinstance(name, str) and name in above):
            self._fail(where, f"{key} {name!r} is no row above it: expected one of {', '.join(above) or 'none'}")

    def _evaluated_only(self, entry: dict, where: str, above: Mapping[str, Row]) -> None:
        """A row with the weights of another has nothing of a training."""
        name = entry.get("weights_of")
        if name is None:
            return
        if useless := [key for key in ("base", "iterations", "seconds_per_iteration") if key in entry]:
            self._fail(where, f"it is not trained (weights_of {name}), but has {useless[0]}: leave one of them out")
        if above[name].weights_of:
            self._fail(where, f"weights_of {name}, which has those of {above[name].weights_of}: name that row")

    def _paper(self, values: dict, where: str) -> None:
        """paper_row and paper_baseline, FILE:ROW relative to the suite -> overrides and paper_gain."""
        name, baseline = values.pop("paper_row", None), values.pop("paper_baseline", None)
        if name is None:
            if baseline is not None:
                self._fail(where, "it has a paper_baseline, but no paper_row that is compared to it")
            return
        row = self._paper_row(name, f"{where}: paper_row")
        values["paper_row"] = config_name(str(row))
        values["overrides"] = overrides_of(str(row)) | values["overrides"]
        if baseline is None:
            return
        other = self._paper_row(baseline, f"{where}: paper_baseline")
        if other.file != row.file:
            self._fail(where, f"paper_baseline is of {other.file.name}, paper_row of {row.file.name}: name one paper")
        values["paper_baseline"] = config_name(str(other))
        for each in (row, other):
            if "mAP" not in each.paper:
                self._fail(where, f"{config_name(str(each))} has no mAP: leave paper_baseline out")
        values["paper_gain"] = round(row.paper["mAP"] - other.paper["mAP"], 6)

    def _paper_row(self, name: Any, where: str) -> ConfigRow:
        try:
            row = find_row(str((self._path.parent / str(name)).resolve()))
        except UserError as error:
            self._fail(where, str(error))
        if row is None:
            self._fail(where, f"got {name!r}, expected FILE:ROW of a paper's table")
        return row

    def _config(self, entry: dict, where: str) -> Path:
        """FILE or FILE:ROW, relative to the suite."""
        name = str(entry["config"])
        # Made absolute: jobs may run in another folder
        if not os.path.isfile(split_row(self._path.parent / name)[0]):
            self._fail(where, f"configuration {name!r} does not exist beside the suite")
        config = (self._path.parent / name).resolve()
        try:
            setting = find_test_setting(config)
        except UserError as error:
            self._fail(where, str(error))
        # Its configuration names the final weights of another training, and training would continue from those
        starts = entry.get("base") is not None or entry.get("weights_of") is not None
        if setting and not starts and "MODEL.WEIGHTS" not in (entry.get("overrides") or {}):
            what = f"{config_name(config)} is {config_name(setting.base)} with other settings in inference"
            self._fail(where, f"{what}: to train it anew, it needs a base to start from")
        return config

    def _iterations(self, iterations: Any, where: str, sizes: Mapping[str, Size]) -> None:
        if isinstance(iterations, dict):
            if unknown := iterations.keys() - sizes.keys():
                self._fail(where, f"iterations of size {min(map(str, unknown))!r}: expected {', '.join(sizes)}")
            for size, count in iterations.items():
                self._count(count, f"{where}: iterations of {size}")
        elif iterations is not None:
            self._count(iterations, f"{where}: iterations")

    def _overrides(self, values: dict, where: str) -> None:
        overrides = values.get("overrides", {})
        if not isinstance(overrides, dict):
            self._fail(where, f"overrides are {overrides!r}, expected a mapping {{KEY: value}}")
        values["overrides"] = {str(key): value for key, value in overrides.items()}

    def _keys(
        self,
        entry: Any,
        where: str,
        kind: type,
        required: AbstractSet[str] = frozenset(),
        excluded: AbstractSet[str] = frozenset(),
        added: AbstractSet[str] = frozenset(),
    ) -> None:
        if not isinstance(entry, dict):
            self._fail(where, f"got {entry!r}, expected a mapping")
        allowed = ({attribute.name for attribute in fields(kind)} - excluded) | added
        if unknown := entry.keys() - allowed:
            self._fail(where, f"unknown key {min(map(str, unknown))!r}: expected some of {', '.join(sorted(allowed))}")
        if missing := required - entry.keys():
            self._fail(where, f"it has no {min(missing)}")

    def _type(self, content: dict, key: str, kind: type, expected: str, where: str) -> None:
        if not isinstance(content[key], kind) or not content[key]:
            self._fail(where, f"{key} is {content[key]!r}, expected {expected}")

    def _strings(self, value: Any, where: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self._fail(where, f"got {value!r}, expected a list of names")
        return tuple(value)

    def _count(self, value: Any, where: str) -> None:
        # True is an int to isinstance
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._fail(where, f"got {value!r}, expected a whole number of at least 1")

    def _fail(self, where: str, what: str) -> NoReturn:
        raise UserError(f"{self._path}: {where}: {what}")
