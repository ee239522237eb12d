"""Makes tests/helpers and tests/reference importable, keeps every test on one thread, and adds --device."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    message = "where tests/ops and tests/contracts compute: cpu, cuda, ... or emulated; give it with these folders only"
    parser.addoption("--device", default="cpu", help=message)


def pytest_configure(config: pytest.Config) -> None:
    from helpers.device import choose_device

    choose_device(config.getoption("--device"))
