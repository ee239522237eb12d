"""Nested training state survives JSON and a table of tensors, to the bit."""

import json
import math

import pytest
import torch

from vod2.checkpoint.packing import pack, storable, unpack


def round_trip(state):
    packed, tensors = pack(state)
    return unpack(json.loads(json.dumps(packed)), tensors)


def test_what_optimizers_and_schedules_keep_comes_back():
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.arange(4.0)}, 7: {}},
        "param_groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "foreach": None, "params": [0, 7]}],
        "best": float("-inf"),
        "name": "AdamW",
    }
    back = round_trip(state)
    assert torch.equal(back["state"][0].pop("exp_avg"), state["state"][0].pop("exp_avg"))
    assert torch.equal(back["state"][0].pop("step"), state["state"][0].pop("step"))
    assert back == state
    assert isinstance(back["param_groups"][0]["betas"], tuple)


def test_nan_and_whole_numbers_keep_their_kind():
    back = round_trip({"nan": math.nan, "one": 1, "yes": True, "float": 1.0})
    assert math.isnan(back["nan"])
    assert [type(back[name]) for name in ("one", "yes", "float")] == [int, bool, float]


@pytest.mark.parametrize("key", ["__tensor__", "__dict__", "__tuple__", "__number__"])
def test_a_state_with_a_key_of_ours_comes_back(key):
    assert round_trip({key: [1, 2]}) == {key: [1, 2]}


def test_what_is_no_plain_data_is_refused_by_its_place():
    with pytest.raises(TypeError, match=r"hooks\.3.*object"):
        pack({"hooks": [0, 1, 2, object()]})


def test_tensors_that_share_memory_are_stored_apart():
    whole = torch.arange(6.0)
    stored = storable({"a": whole, "b": whole, "part": whole[2:4], "turned": whole.reshape(2, 3).T})
    pointers = {value.untyped_storage().data_ptr() for value in stored.values()}
    assert len(pointers) == 4
    assert stored["part"].tolist() == [2, 3]
    assert stored["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert all(value.is_contiguous() for value in stored.values())
