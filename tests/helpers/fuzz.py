"""Input that nobody would write, for parsers."""

import copy
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("VOD2_FUZZ_TIMES", "1"))
"""How many times as many examples are tried as usual; `make test-all` sets it."""


def fuzz(max_examples: int) -> settings:
    """For tests that write each example over the one before, into the same temporary folder."""
    return settings(
        max_examples=max_examples * TIMES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


FUZZ = fuzz(150)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from([10**400, 0, 1, -1])
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


@st.composite
def mutated_json(draw, valid):
    """A copy of `valid` in which up to three nodes are replaced, taken out or doubled."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        nodes = list(_containers(value))
        if not nodes:
            break
        node = draw(st.sampled_from(nodes))
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        action = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if action == "replace":
            node[key] = draw(json_values)
        elif action == "remove":
            del node[key]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
    return value


def _containers(value):
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


@st.composite
def mutated_bytes(draw, valid: bytes):
    """`valid` with up to three pieces replaced by others."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 6))
        piece = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"nan", b"inf", b"-1", b"1e999", b"\xc2\xb2", b"9" * 30, b",", b" ", b"\n", b"<", b"0x1"]
            )
        )
        data = data[:start] + piece + data[end:]
    return data
