"""Rows of papers' tables: many configurations in one file, each a base and the keys that differ.

configs/ablations/<paper>.yaml:

    prefix: RDN                          # OUTPUT_DIR of a row is output/ablations/RDN_<row>
    tables:
      Table 4:
        what: Frames T on either side    # the table's title
        kind: test                       # of its rows that do not say otherwise; so is base
        base: ../RDN_R101.yaml           # a file, relative to this one; FILE:ROW; or another row of this file
        rows:
          T3:
            what: T = 3
            paper: {mAP: 80.3, ms: 90.1}     # what the table prints, see `COLUMNS`
            overrides: {VIDEO.TEST_SCHEDULE.RADIUS: 3}

Wherever a configuration is taken, configs/ablations/rdn.yaml:T3 is one. Where there is no such file, it is the name of
one that comes with vod2 (`vod2.package_files.find_config`).
"""

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vod2.bounded import load_yaml
from vod2.errors import UserError
from vod2.package_files import command_line, find_config

TRAIN, TEST, SAME = "train", "test", "same"
KINDS = (TRAIN, TEST, SAME)
"""What a row is: a training of its own, another test setting of the weights of its base, or its base as it is."""

COLUMNS = {
    "mAP": "mAP",
    "slow": "slow",
    "medium": "medium",
    "fast": "fast",
    "clean": "without deteriorated frames",
    "M": "parameters (M)",
    "GFLOP": "GFLOP",
    "ms": "ms a frame",
    "FPS": "frames a second",
}
"""{key of `ConfigRow.paper`: the column of a table that it is}."""


@dataclass(frozen=True)
class ConfigRow:
    """One row.

    Args:
        file: that names it.
        name: within the file.
        table: title of its table, such as "Table 4".
        what: one line.
        kind: of `KINDS`.
        base: the configuration that it differs from, FILE or FILE:ROW.
        overrides: {dotted configuration key: value}.
        paper: {key of `COLUMNS`: what the paper prints}.
        output: its OUTPUT_DIR; SAME has that of its base.
    """

    file: Path
    name: str
    table: str
    what: str
    kind: str
    base: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    output: str = ""

    def __str__(self) -> str:
        """The name that it has as a configuration."""
        return f"{self.file}:{self.name}"

    def settings(self, weights: str) -> dict[str, Any]:
        """Nested keys and values that make this row of the configuration of its base.

        Args:
            weights: that a test setting is evaluated with.
        """
        if self.kind == SAME:
            return {}
        # The row's overrides come last: they may name other weights or another folder
        values = {"OUTPUT_DIR": self.output} | ({"MODEL.WEIGHTS": weights} if self.kind == TEST else {})
        nested: dict[str, Any] = {}
        for key, value in (values | dict(self.overrides)).items():
            *nodes, leaf = key.split(".")
            node = nested
            for name in nodes:
                node = node.setdefault(name, {})
            node[leaf] = value
        return nested


@dataclass(frozen=True)
class RowFile:
    """The rows of a paper: `tables` {title: what it is about}, `rows` {name: row}, both in the order of the file."""

    path: Path
    tables: Mapping[str, str]
    rows: Mapping[str, ConfigRow]

    def of(self, table: str) -> list[ConfigRow]:
        """The rows of a table."""
        return [row for row in self.rows.values() if row.table == table]


def split_row(config_file: str | os.PathLike) -> tuple[str, str | None]:
    """FILE or FILE:ROW -> file, and the name of the row or None.

    Example:
        >>> split_row("configs/ablations/rdn.yaml:T3"), split_row("configs/RDN_R101.yaml")
        (('configs/ablations/rdn.yaml', 'T3'), ('configs/RDN_R101.yaml', None))
    """
    text = os.fspath(config_file)
    path, colon, row = text.rpartition(":")
    return (path, row) if colon and path.endswith((".yaml", ".yml")) else (text, None)


def find_row(config_file: str | os.PathLike) -> ConfigRow | None:
    """The row that FILE:ROW names, None for a FILE.

    Raises:
        UserError: as `load_rows`, or there is no such row.
    """
    path, name = split_row(config_file)
    if name is None:
        return None
    rows = load_rows(path).rows
    if name not in rows:
        raise UserError(f"{path} has no row {name!r}: expected one of {', '.join(rows)}")
    return rows[name]


def resolve_rows(config_file: str | os.PathLike) -> tuple[str, list[ConfigRow]]:
    """FILE or FILE:ROW -> the file that all begins with, and the rows that differ from it, the named one last.

    Raises:
        UserError: as `find_row`; the file is one of rows and none is named, or a row has itself as a base.
    """
    rows: list[ConfigRow] = []
    seen: set[str] = set()
    while (row := find_row(config_file)) is not None:
        if str(row) in seen:
            raise UserError(f"{config_file}: its bases lead back to itself: one of them must be a configuration file")
        seen.add(str(row))
        # Bases first: settings are merged in this order, and the named row wins
        rows.insert(0, row)
        config_file = row.base
    path = find_config(os.fspath(config_file))
    if has_rows(path):
        names = load_rows(path).rows
        asked = "the base of " + str(rows[0]) if rows else "a configuration"
        example = f"{path}:{next(iter(names))} ({command_line('show')} {path} lists them)"
        raise UserError(f"{path} holds rows: name one for {asked}, such as {example}")
    return path, rows


def find_test_setting(config_file: str | os.PathLike) -> ConfigRow | None:
    """The row that makes FILE:ROW another test setting of a training, None where it is something to train.

    A training of it would go on from the last weights of the other, which nobody means.

    Raises:
        UserError: as `resolve_rows`.
    """
    rows = [row for row in resolve_rows(config_file)[1] if row.kind != SAME]
    return rows[-1] if rows and rows[-1].kind == TEST else None


def overrides_of(config_file: str | os.PathLike) -> dict[str, Any]:
    """{key: value} in which FILE:ROW differs from the configuration file that it begins with, weights and folder aside.

    What makes a method that row, also on another data set or with another backbone.

    Raises:
        UserError: as `resolve_rows`.

    Example:
        >>> overrides_of("configs/ablations/mst.yaml:b")
        {'MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME': '', 'MODEL.ALIGNER.NAME': ''}
    """
    merged: dict[str, Any] = {}
    for row in resolve_rows(config_file)[1]:
        merged |= row.overrides
    return {key: value for key, value in merged.items() if key not in ("MODEL.WEIGHTS", "OUTPUT_DIR")}


def has_rows(path: str | os.PathLike) -> bool:
    """Whether a file that exists is one of rows; what cannot be read is none."""
    try:
        content = load_yaml(Path(find_config(os.fspath(path))).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "tables" in content


def row_of_former_file(path: str | os.PathLike) -> ConfigRow | None:
    """The row that stood in a file of its own, <prefix>_<row>.yaml, beside the file that names it now."""
    path = Path(path)
    for file in filter(has_rows, sorted(path.parent.glob("*.yaml"))):
        for row in load_rows(file).rows.values():
            if Path(row.output).name == path.stem:
                return row
    return None


def config_name(config_file: str | os.PathLike) -> str:
    """What a configuration is called in tables and pictures.

    Example:
        >>> config_name("configs/ablations/rdn.yaml:T3"), config_name("configs/RDN_R101.yaml")
        ('rdn:T3', 'RDN_R101')
    """
    path, row = split_row(config_file)
    return Path(path).stem if row is None else f"{Path(path).stem}:{row}"


def load_rows(path: str | os.PathLike) -> RowFile:
    """Read a file of rows: one of the user's, or one that comes with vod2 (`find_config`).

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or missing or its value of another type, a base
            does not exist, or two rows have one name; names the file, the place and what there is.

    Example:
        >>> load_rows("configs/ablations/rdn.yaml").rows["T3"].paper["mAP"]
        80.3
    """
    path = Path(find_config(os.fspath(path)))
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise UserError(f"configuration {str(path)!r} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    return _Reader(path).file(content)


class _UniqueKeys(yaml.SafeLoader):
    """YAML takes the last of two values of a key without a word: two rows of one name would be one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"line {node.start_mark.line + 1}: {twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)


class _Reader:
    """Turns what YAML gave into rows; every error names the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, content: Any) -> RowFile:
        self._mapping(content, "the file", {"prefix", "tables"}, required={"prefix", "tables"})
        prefix = self._text(content["prefix"], "prefix")
        self._mapping(content["tables"], "tables")
        entries: list[tuple[str, str, dict]] = []
        titles = {}
        for title, table in content["tables"].items():
            entries += self._entries(title, table)
            titles[title] = table["what"]
        names = [name for _, name, _ in entries]
        if twice := [name for name in names if names.count(name) > 1]:
            self._fail(f"row {twice[0]}", "there are two rows of this name")
        # All names first: a row may be based on one of a later table.
        rows = {}
        for title, name, entry in entries:
            rows[name] = self._row(title, name, entry, prefix, names)
        return RowFile(self._path, titles, rows)

    def _entries(self, title: Any, table: Any) -> Iterator[tuple[str, str, dict]]:
        """(title, name, entry) of each row of a table, the entry with what the table says of all."""
        where = self._text(title, "the title of a table")
        self._mapping(table, where, {"what", "kind", "base", "rows"}, required={"what", "rows"})
        self._text(table["what"], f"{where}: what")
        self._mapping(table["rows"], f"{where}: rows")
        shared = {key: table[key] for key in ("kind", "base") if key in table}
        for name, entry in table["rows"].items():
            self._text(name, f"{where}: the name of a row")
            self._mapping(entry, f"row {name}", {"what", "kind", "base", "overrides", "paper"}, required={"what"})
            yield title, name, shared | entry

    def _row(self, title: str, name: str, entry: dict, prefix: str, names: list[str]) -> ConfigRow:
        where = f"row {name}"
        kind = entry.get("kind", TRAIN)
        if kind not in KINDS:
            self._fail(where, f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
        overrides, paper = entry.get("overrides", {}), entry.get("paper", {})
        self._mapping(overrides, f"{where}: overrides")
        self._mapping(paper, f"{where}: paper", set(COLUMNS))
        for key, value in overrides.items():
            self._text(key, f"{where}: a key of overrides")
            parent = next((other for other in overrides if key.startswith(f"{other}.")), None)
            # With a node beside one of its keys, the result would depend on their order
            if isinstance(value, dict) or parent:
                node = parent or key
                self._fail(where, f"overrides have {node!r}, a node: expected whole keys, such as SOLVER.BASE_LR")
        if kind == SAME and overrides:
            self._fail(where, f"it is the same as its base, but has overrides: expected kind {TRAIN} or {TEST}")
        if kind == TEST and not overrides:
            self._fail(where, f"a test setting needs overrides: without any it is of kind {SAME}")
        for value in paper.values():
            if type(value) not in (int, float):  # True is an int to isinstance
                self._fail(where, f"paper has {value!r}, expected a number")
        base = self._base(self._text(entry.get("base"), f"{where}: base"), where, names)
        what = self._text(entry["what"], f"{where}: what")
        output = f"output/ablations/{prefix}_{name}"
        return ConfigRow(self._path, name, title, what, kind, base, overrides, paper, output)

    def _base(self, base: str, where: str, names: list[str]) -> str:
        """A row of this file, or a file relative to it, with or without a row -> FILE or FILE:ROW."""
        if base in names:
            return f"{self._path}:{base}"
        file, row = split_row(base)
        path = os.path.normpath(self._path.parent / file)
        if not os.path.isfile(path):
            self._fail(where, f"base {base!r} is neither a file beside this one nor one of its rows {', '.join(names)}")
        return path if row is None else f"{path}:{row}"

    def _mapping(
        self, value: Any, where: str, allowed: set[str] | None = None, required: AbstractSet[str] = frozenset()
    ) -> None:
        if not isinstance(value, dict):
            self._fail(where, f"got {value!r}, expected a mapping")
        if allowed is not None and (unknown := [key for key in value if key not in allowed]):
            self._fail(where, f"unknown key {unknown[0]!r}: expected some of {', '.join(sorted(allowed))}")
        if missing := required - value.keys():
            self._fail(where, f"it has no {min(missing)}")

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value:
            self._fail(where, f"got {value!r}, expected text: put quotes around what YAML takes for something else")
        return value

    def _fail(self, where: str, what: str) -> None:
        raise UserError(f"{self._path}: {where}: {what}")
