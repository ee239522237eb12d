"""Makes tests/helpers and tests/reference importable, keeps tests on one thread, and adds --device and fixtures."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from helpers.installed import Installed

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    message = "where tests/ops and tests/contracts compute: cpu, cuda, ... or emulated; give it with these folders only"
    parser.addoption("--device", default="cpu", help=message)


def pytest_configure(config: pytest.Config) -> None:
    from helpers.device import choose_device

    choose_device(config.getoption("--device"))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution of this checkout."""
    from helpers.installed import write_sources

    return write_sources(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(sources: Path) -> Path:
    """Built from the source distribution, without a compiler."""
    from helpers.installed import build

    return build(sources, VOD2_BUILD_OPS="0")


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> "Installed":
    """An environment with this wheel."""
    from helpers.installed import Installed

    return Installed(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is an exception here and in processes that are started: a worker of pytest-xdist ignores it, and so would
    they."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the frames that come out of the decoder of a video file."""
    from vod2.video import seeking

    numbers = []
    real = seeking.FrameCursor._decode

    def counted(*args, **kwargs):
        for number, frame in real(*args, **kwargs):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(seeking.FrameCursor, "_decode", staticmethod(counted))
    return numbers
