"""Old names work for one version and say what the new ones are."""

import importlib
import re
import subprocess
import sys
import warnings

import pytest

import vod2
import vod2.data.datasets
import vod2.visualization
from vod2.layers import RelationModules
from vod2.moved import OLD_NAMES, moved, renamed_method
from vod2.temporal import FrameMemory, SlidingWindow

MODULES = sorted(name for name, place in OLD_NAMES.items() if ":" not in place)
NAMES = sorted(OLD_NAMES.keys() - set(MODULES))


def test_there_are_old_names():
    assert "vod2.data.reader" in MODULES and "vod2.visualization.VideoWriter" in NAMES


@pytest.mark.parametrize("old", MODULES)
def test_a_moved_module_gives_what_the_new_one_has_and_names_it(old):
    new = importlib.import_module(OLD_NAMES[old])
    name = next(name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__)
    with pytest.warns(DeprecationWarning, match=rf"^{old} is now {new.__name__}; "):
        assert getattr(importlib.import_module(old), name) is getattr(new, name)


@pytest.mark.parametrize("old", NAMES)
def test_a_moved_name_is_that_of_the_new_place_and_names_it(old):
    package, _, name = old.rpartition(".")
    place, _, new_name = OLD_NAMES[old].partition(":")
    with pytest.warns(DeprecationWarning, match=rf"^{old} is now {place}\.{new_name}; "):
        value = getattr(importlib.import_module(package), name)
    assert value is getattr(importlib.import_module(place), new_name)


def test_a_renamed_method_calls_the_new_one_and_warns_where_it_is_called():
    class Box:
        def area(self, side, *, scale=1):
            return scale * side**2

        surface = renamed_method("Box", "surface", "area")

    with pytest.warns(DeprecationWarning, match=r"^Box\.surface is now Box\.area; ") as seen:
        assert Box().surface(3, scale=2) == 18
    assert seen[0].filename == __file__


def test_methods_that_were_renamed():
    modules, memory = RelationModules(dim=8, num_heads=2), FrameMemory(SlidingWindow(1))
    with pytest.warns(DeprecationWarning, match=r"RelationModules\.with_geometry"):
        assert modules.located(position=False).geometry.position is False
    with pytest.warns(DeprecationWarning, match=r"RelationModules\.without_geometry"):
        assert modules.anywhere().geometry is None
    with pytest.warns(DeprecationWarning, match=r"FrameMemory\.cached_context"):
        assert len(memory.held()) == 0


FORMS = """
import vod2, vod2.visualization
from vod2.data.reader import VideoReader
from vod2.data import reader; reader.VideoReader
import vod2.data.reader; vod2.data.reader.VideoReader
import vod2.data.reader as reader; reader.VideoReader
"""


def test_every_form_of_import_warns_where_it_is_written_and_the_package_itself_nowhere():
    command = [sys.executable, "-W", "always::DeprecationWarning", "-c", FORMS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    where = re.findall(r"^(.*): DeprecationWarning: vod2.* is now .*;", done.stderr, flags=re.MULTILINE)
    assert where == [f"<string>:{line}" for line in (3, 4, 5, 6)]


def test_an_unknown_name_is_an_attribute_error_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AttributeError, match="'vod2.visualization' has no attribute 'Nothing'"):
            vod2.visualization.Nothing  # noqa: B018
        with pytest.raises(ImportError, match="Nothing"):
            exec("from vod2.data.reader import Nothing")
        assert not hasattr(sys.modules["vod2.data.reader"], "__file__")


def test_a_place_that_does_not_exist_is_only_asked_for_when_it_is_used():
    get = moved("vod2.visualization", {"Gone": "vod2.video:Gone"})
    try:
        with pytest.raises(AttributeError, match="Gone"), pytest.warns(DeprecationWarning, match="vod2.video.Gone"):
            get("Gone")
    finally:
        del OLD_NAMES["vod2.visualization.Gone"]
