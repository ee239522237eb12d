"""What is to be compared of a suite by `tools/compare.py`: a paired bootstrap over videos and seeds."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from vod2.ablation.plan import TRAIN, JobKey, Plan
from vod2.ablation.records import Records
from vod2.engine import inference_folder


class Comparison(NamedTuple):
    """One call: `words` are NAME=FOLDER,FOLDER,... of the baseline and of the others; results go to `folder`."""

    folder: Path
    words: list[str]


def comparisons(plan: Plan, records: Records) -> Iterator[Comparison]:
    """Of each data set: the own contexts of all rows with the reference (or the first row), those of rows that name
    another one (`compared_to`) with that, and of each row the other contexts with its own. Only evaluations that are
    done count.
    """
    datasets = set().union(*(job.datasets for job in plan.jobs.values()))
    for dataset in sorted(datasets):
        runs: dict[tuple[str, str], list[str]] = {}
        for key, job in plan.jobs.items():
            if key.kind != TRAIN and dataset in job.datasets and records.is_done(job):
                runs.setdefault((key.row, key.kind), []).append(_folder(plan, key, dataset))
        first = plan.suite.reference or next(iter(plan.suite.rows))
        rows = {row: folders for (row, context), folders in runs.items() if context == "own"}
        for baseline, compared in _groups(plan, rows, first).items():
            # The baseline comes first: a dict keeps the position of a key that is set again
            folder = "rows" if baseline == first else f"rows_{baseline}"
            methods = {baseline: rows[baseline]} | {row: rows[row] for row in compared}
            yield _comparison(plan.output / "compare" / dataset / folder, methods)
        for row in rows:
            contexts = {context: folders for (name, context), folders in runs.items() if name == row}
            if len(contexts) > 1:
                yield _comparison(plan.output / "compare" / dataset / row, {"own": contexts["own"]} | contexts)


def _groups(plan: Plan, rows: Collection[str], first: str) -> dict[str, list[str]]:
    """{baseline: the rows that are compared to it}: `first`, or what a row names for itself."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        baseline = plan.suite.rows[row].compared_to or first
        if row != baseline and baseline in rows:
            groups.setdefault(baseline, []).append(row)
    return groups


def _comparison(folder: Path, methods: dict[str, list[str]]) -> Comparison:
    return Comparison(folder, [f"{name}={','.join(folders)}" for name, folders in methods.items()])


def _folder(plan: Plan, key: JobKey, dataset: str) -> str:
    return inference_folder(str(plan.jobs[key].folder), dataset, key.kind)
