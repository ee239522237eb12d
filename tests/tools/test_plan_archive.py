"""The simulation of an archive, by hand."""

from pathlib import Path

import numpy as np
import pytest

from helpers.modules import load_module


@pytest.fixture(scope="module")
def tool():
    tool = load_module(Path(__file__).resolve().parents[2] / "tools" / "plan_archive.py")
    return tool


def assumptions(tool, **changed):
    given = dict(videos=1000, minutes=1.0, spread=0.0, longest=24.0, rate=25.0, workers=10, speed=50.0, segment=0)
    given |= dict(overlap=0, per_video=0.0, start=0.0, deaths=0.0, bytes_per_frame=100.0, price=3.0)
    return tool.Assumptions(**(given | changed))


def test_equal_videos_are_arithmetic(tool):
    """1,000 videos of 1,500 frames at 50 a second are 30,000 s, 3,000 s on each of 10 workers."""
    found = tool.plan(assumptions(tool))
    assert found.tasks == 1000 and found.frames == pytest.approx(1_500_000)
    assert found.hours == found.hours_unsorted == pytest.approx(3000 / 3600)
    assert found.busy == pytest.approx(1) and found.writes_per_second == pytest.approx(2000 / 3000)
    assert found.cost == pytest.approx(3000 / 3600 * 10 * 3) and found.terabytes == pytest.approx(1.5e-4)


def test_starts_and_deaths_cost_time(tool):
    """A task is 30 s: a death loses 15 s and the 60 s of the next start; 12 an hour make that 900 s of 3,600."""
    found = tool.plan(assumptions(tool, start=60.0, deaths=12.0))
    assert found.redone == pytest.approx(0.25) and found.hours == pytest.approx(3060 / 3600 * 1.25)


def test_long_videos_become_segments_that_share_frames(tool):
    """260 frames are 3 segments of 100 with 20 in common: 240 / 3 + 20."""
    given = assumptions(tool, segment=100, overlap=20, speed=10.0, per_video=1.0)
    seconds = tool.task_seconds(np.array([50.0, 260.0]), given)
    assert seconds == pytest.approx([6, 11, 11, 11])


def test_the_largest_first_ends_sooner(tool):
    tasks = np.array([1.0] * 8 + [4.0])
    assert tool.makespan(tasks, 3) == 6 and tool.makespan(tasks[::-1], 3) == 4


def test_segments_help_where_a_few_videos_are_long(tool):
    given = assumptions(tool, spread=2.0, workers=50)
    assert tool.plan(given._replace(segment=3000)).hours < 0.5 * tool.plan(given).hours
