"""report.json and what is made of it for readers. Standard library only.

docs/benchmark.md states the schema.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

SCHEMA = 1
_HIDDEN = ("step", "card", "date", "commit", "trace", "status", "name", "seconds")


def write(path: Path, text: str) -> None:
    """Replace a file in one step (vod2.atomic cannot be imported before the project's packages are installed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    # mkstemp makes files that only their owner can read.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def save(report: dict, folder: Path) -> None:
    """report.json and report.md."""
    write(folder / "report.json", json.dumps(report, indent=1) + "\n")
    write(folder / "report.md", markdown(report))


def set_aside(folder: Path) -> None:
    """Rename what an earlier run wrote to the folder: report.json to report_1.json, or the next free number."""
    if not (folder / "report.json").exists():
        return
    number = 1
    while (folder / f"report_{number}.json").exists():
        number += 1
    for suffix in ("json", "md"):
        if (folder / f"report.{suffix}").exists():
            os.replace(folder / f"report.{suffix}", folder / f"report_{number}.{suffix}")


def load(path: str | os.PathLike) -> dict:
    """A report.json.

    Raises:
        ValueError: it is none, or one of another schema.
    """
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected the report.json of tools/gpu_report.py, got: {error}") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        schema = report.get("schema") if isinstance(report, dict) else None
        raise ValueError(f"{path}: expected a report of schema {SCHEMA}, got {schema!r}; make it again")
    return report


def markdown(report: dict) -> str:
    """The whole report as a page."""
    lines = [
        f"# {report['card']}",
        "",
        f"{report['date']}, commit {report['commit']}, {report['device']}, size {report['size']}, "
        f"{report['seconds']:.0f} of {report['minutes'] * 60:.0f} s; {report['versions']}.",
        f"Compiled ops: {', '.join(report['ops']) or 'none'}.",
        "",
        table(
            ["step", "result", "seconds", "cases", "note"],
            [
                [step["name"], step["status"], f"{step['seconds']:.0f}", _counts(report, step["name"]), step["message"]]
                for step in report["steps"]
            ],
        ),
    ]
    for step in report["steps"]:
        rows = [row for row in report["rows"] if row["step"] == step["name"]]
        if rows:
            lines += ["", f"## {step['name']}", "", table_of(rows)]
    faults = [row for row in report["rows"] if row["status"] in ("failed", "crashed", "timed out")]
    if faults:
        lines += ["", "## What failed"]
    for row in faults:
        lines += ["", f"{row['step']}, {row['name']}: {row['status']}. {row.get('message', '')}"]
        if row.get("trace"):
            lines += ["", "```", row["trace"], "```"]
    return "\n".join(lines) + "\n"


def _counts(report: dict, step: str) -> str:
    """Such as "12 passed, 1 failed"."""
    statuses = [row["status"] for row in report["rows"] if row["step"] == step]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def table_of(rows: list[dict]) -> str:
    """Rows with the values that any of them has, one column each."""
    columns: list[str] = []  # in the order in which they first appear
    for row in rows:
        columns += [key for key in row if key not in _HIDDEN and key not in columns]
    body = []
    for row in rows:
        body.append([row["name"], row["status"], *(_text(row.get(column)) for column in columns)])
    return table(["case", "result", *columns], body)


def table(headers: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = []
    for row in (headers, ["---"] * len(headers), *rows):
        # A bar or the end of a line would end the cell.
        cells = [str(cell).replace("|", "/").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # %g would write large numbers with an exponent.
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    return str(value)


def publish(paths: list[str], page: Path) -> None:
    """Write docs/gpu.md from reports of GPUs.

    Raises:
        ValueError: a file is no such report, or one of a CPU.
    """
    reports = [load(path) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        if report["device"] != "cuda":
            raise ValueError(
                f"{path}: a report of {report['card']} ({report['device']}); only those of a GPU are published"
            )
    head = "Measured by `tools/gpu_report.py` and written by its `--publish`; docs/benchmark.md explains it."
    write(
        page,
        "\n".join(
            [
                "# GPU",
                "",
                head,
                "",
                # The headings of a report go down a level, below that of the page.
                *(markdown(report).replace("\n#", "\n##").replace("# ", "## ", 1) for report in reports),
            ]
        ),
    )
