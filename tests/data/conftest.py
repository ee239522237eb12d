"""Shared by the tests of the data."""

import pytest

from vod2.data import seeking


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of the frames that come out of the decoder."""
    numbers = []
    real = seeking.FrameCursor._decode

    def counted(*args, **kwargs):
        for number, frame in real(*args, **kwargs):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(seeking.FrameCursor, "_decode", staticmethod(counted))
    return numbers
