"""Work as a number that is the same on every machine."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from vod2.data.datasets import common


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called while `work` runs."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def count_readings(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], Counter[str]]:
    """From now on: how often annotation files of each name are read, and how often they are parsed as JSON."""
    read: Counter[str] = Counter()
    parsed: Counter[str] = Counter()
    read_bytes, read_json = Path.read_bytes, common.read_json

    def counted_bytes(path):
        read[path.name] += 1
        return read_bytes(path)

    def counted_json(path, what, expected):
        parsed[Path(path).name] += 1
        return read_json(path, what, expected)

    monkeypatch.setattr(Path, "read_bytes", counted_bytes)
    for module in ("coco_parser", "label_studio_parser", "bdd"):
        monkeypatch.setattr(f"vod2.data.datasets.{module}.read_json", counted_json)
    return read, parsed
