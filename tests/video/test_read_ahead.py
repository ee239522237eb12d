"""`read_ahead`: the same items, made in a thread; errors in their place; the thread ends."""

import itertools
import threading
import time

import pytest

from vod2.video import read_ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read_ahead"]


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("depth", [1, 4, 100])
def test_the_items_are_the_same(depth):
    assert list(read_ahead(range(20), depth)) == list(range(20))
    assert list(read_ahead([None, 0, None], depth)) == [None, 0, None]
    assert not threads()


def test_items_are_made_before_they_are_asked_for_and_no_more_than_the_depth():
    made = []

    def items():
        for index in itertools.count():
            made.append(index)
            yield index

    ahead = read_ahead(items(), 3)
    assert not made  # not before the first is asked for
    assert next(ahead) == 0
    # One that was taken, three that wait, one that finds no room.
    wait_for(lambda: len(made) == 5)
    time.sleep(0.2)
    assert len(made) == 5
    ahead.close()
    assert not threads()


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        yield 2
        raise KeyError("frame 2")

    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="frame 2"):
        next(ahead)
    assert not threads()


@pytest.mark.parametrize("end", ["close", "forget", "error"])
def test_who_stops_early_ends_the_thread_and_closes_the_items(end):
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    ahead = read_ahead(items())
    next(ahead)
    if end == "close":
        ahead.close()
    elif end == "error":
        with pytest.raises(ZeroDivisionError):
            ahead.throw(ZeroDivisionError())
    else:
        del ahead
    assert closed == ["read_ahead"]
    assert not threads()


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        read_ahead([], 0)
