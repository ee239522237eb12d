"""The examples in docstrings do what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def module_names() -> list[str]:
    """All modules of vod2 and the projects whose name has no leading underscore on any level."""
    names = []
    for folder, prefix in ((ROOT / "vod2", "vod2"), (ROOT / "projects", "vod2.projects")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                names.append(".".join([prefix, *parts]))
    return names


@pytest.mark.parametrize("name", module_names())
def test_the_examples_of_a_module_run_as_printed(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0, f"{failed} examples of {name} failed, see the output"


def test_there_are_examples_to_run():
    modules = [importlib.import_module(name) for name in module_names()]
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) > 0 for module in modules for test in finder.find(module)) >= 10
