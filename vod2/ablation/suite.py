"""A suite as it is written in YAML: rows to train and evaluate, in several sizes."""

import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vod2.bounded import load_yaml
from vod2.data import CONTEXTS
from vod2.engine.rows import config_name, find_test_setting, split_row
from vod2.errors import UserError


@dataclass(frozen=True)
class Row:
    """One configuration of a suite.

    Args:
        name: of the row, and of its folder.
        config: configuration, FILE or FILE:ROW.
        base: row whose final weights of the same seed this one starts from; None for the configuration's own weights.
        overrides: {configuration key: value}, after those of the size.
        iterations: SOLVER.MAX_ITER: one number, or {size: number}; None for that of the size or of the configuration.
        contexts: of `vod2.data.CONTEXTS`, to be evaluated.
        seconds_per_iteration: of training, on one device; None where it is not known.
        seconds_per_frame: of evaluation in the own context.
    """

    name: str
    config: Path
    base: str | None = None
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
        other = self.reference or self.rows[row].base
        return None if other == row else other


def load_suite(path: Path) -> Suite:
    """Read a suite; configuration files are named relative to its folder, as `_BASE_` is.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown, missing or of another type, a configuration does
            not exist, or a base, reference or context is not one of those that there are.

    Example:
        >>> load_suite(Path("configs/suites/quick.yaml")).rows["RDN"].base
        'FasterRCNN'
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"suite {str(path)!r} cannot be read ({error.strerror}): give its name or its file") from error
    except ValueError as error:
        raise UserError(f"{path}: no YAML of a suite ({' '.join(str(error).split())}): fix the file") from error
    return _Reader(path).suite(content)


class _Reader:
    """Turns what YAML gave into a suite; every error names the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def suite(self, content: Any) -> Suite:
        # The suite's name is that of its file
        self._keys(content, "the file", Suite, excluded={"name"}, required={"rows", "sizes"})
        self._type(content, "sizes", dict, "a mapping {name: size}", "the file")
        self._type(content, "rows", list, "a list of rows", "the file")
        sizes = {str(name): self._size(size or {}, f"size {name}") for name, size in content["sizes"].items()}
        # Filled in the order of the file: a base has to be above the rows that start from it
        rows: dict[str, Row] = {}
        for number, entry in enumerate(content["rows"], 1):
            row = self._row(entry, f"row {number}", sizes, rows)
            rows[row.name] = row
        metrics = self._strings(content.get("metrics", ["vid/AP50"]), "metrics")
        if wrong := [metric for metric in metrics if metric.count("/") != 1]:
            self._fail("metrics", f"got {wrong[0]!r}, expected task/metric, such as vid/AP50")
        reference = content.get("reference")
        if reference is not None and not (isinstance(reference, str) and reference in rows):
            self._fail("reference", f"there is no row {reference!r}: expected one of {', '.join(rows)}")
        return Suite(self._path.stem, rows, sizes, metrics, reference)

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
        self._keys(entry, where, Row, required={"name", "config"})
        name = str(entry["name"])
        where = f"row {name}"
        if not re.fullmatch(r"\w[\w.+-]*", name):
            self._fail(where, "its name is that of a folder, too: expected letters, digits and _ . + -")
        if name in above:
            self._fail(where, "there are two rows of this name")
        base = entry.get("base")
        if base is not None and not (isinstance(base, str) and base in above):
            self._fail(where, f"base {base!r} is no row above it: expected one of {', '.join(above) or 'none'}")
        config = self._config(entry, where)
        contexts = self._strings(entry.get("contexts", ["own"]), f"{where}: contexts")
        if unknown := [context for context in contexts if context not in CONTEXTS]:
            self._fail(where, f"context {unknown[0]!r}: expected some of {', '.join(CONTEXTS)}")
        values = dict(entry) | {"name": name, "config": config, "contexts": contexts}
        self._overrides(values, where)
        self._iterations(values.get("iterations"), where, sizes)
        for key in ("seconds_per_iteration", "seconds_per_frame"):
            seconds = values.get(key)
            if seconds is not None and (not isinstance(seconds, int | float) or seconds <= 0):
                self._fail(where, f"{key} is {seconds!r}, expected a number above 0")
        return Row(**values)

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
        if setting and entry.get("base") is None and "MODEL.WEIGHTS" not in (entry.get("overrides") or {}):
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
    ) -> None:
        if not isinstance(entry, dict):
            self._fail(where, f"got {entry!r}, expected a mapping")
        allowed = {attribute.name for attribute in fields(kind)} - excluded
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

    def _fail(self, where: str, what: str) -> None:
        raise UserError(f"{self._path}: {where}: {what}")
