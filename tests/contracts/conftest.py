"""What the contracts of pixel and of proposal aggregators have in common: each file says what `chosen` is."""

import pytest


@pytest.fixture
def case(chosen):
    """What the contracts need to know of the chosen aggregator."""
    return chosen[0]


@pytest.fixture
def keys(chosen) -> dict:
    """The configuration that switches the chosen aggregator on."""
    return chosen[1]
