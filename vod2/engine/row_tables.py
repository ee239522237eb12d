"""The rows of a paper as tables to read: what they are, how they are run, what the paper prints."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from vod2.engine.rows import COLUMNS, SAME, TEST, TRAIN, ConfigRow, RowFile, config_name, split_row
from vod2.package_files import command_line


def row_listing(rows: RowFile) -> str:
    """Markdown: a heading and a table for each table of the paper.

    Example:
        >>> from vod2.engine.rows import load_rows
        >>> row_listing(load_rows("configs/ablations/rdn.yaml")).splitlines()[0]
        '### Table 1: End-to-end models'
    """
    return "\n\n".join(f"### {title}: {what}\n\n{_table(rows.of(title))}" for title, what in rows.tables.items()) + "\n"


def row_description(row: ConfigRow) -> str:
    """A row in lines: what it is, how it is run, the keys that differ from its base."""
    lines = [f"{row}, {row.table}: {row.what}", how_it_runs(row)]
    if row.paper:
        lines.append("paper: " + ", ".join(f"{COLUMNS[key]} {value}" for key, value in row.paper.items()))
    lines += [f"{key} {value!r}" for key, value in row.overrides.items()]
    if row.kind == TRAIN:
        lines.append(f"{command_line('train')} --config-file {row} --num-gpus 4")
    elif row.kind == TEST:
        lines.append(f"{command_line('train')} --config-file {row} --eval-only")
    return "\n".join(lines)


def how_it_runs(row: ConfigRow) -> str:
    """Training, test of another's weights, or nothing of its own; with the configuration that it differs from."""
    file, name = split_row(row.base)
    base = name if name is not None and Path(file) == row.file else config_name(row.base)
    training = f"training, {'a variant of' if row.overrides else 'as'} {base}"
    return {TRAIN: training, TEST: f"test of {base}", SAME: f"is {base}"}[row.kind]


def columns_of(rows: Iterable[ConfigRow]) -> list[str]:
    """The keys of `COLUMNS` that any of the rows has a number for."""
    # In the order of `COLUMNS`, whatever the order in the file
    printed = {key for row in rows for key in row.paper}
    return [key for key in COLUMNS if key in printed]


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table without padding, so that one longer word does not change every line."""
    return "\n".join("| " + " | ".join(words) + " |" for words in (header, ["---"] * len(header), *lines))


def _table(rows: list[ConfigRow]) -> str:
    columns = columns_of(rows)
    lines = []
    for row in rows:
        numbers = [str(row.paper.get(key, "")) for key in columns]
        lines.append([row.name, row.what, how_it_runs(row), *numbers])
    return markdown(["row", "what", "run", *(COLUMNS[key] for key in columns)], lines)
