"""Nested training state as plain JSON and a flat table of tensors, and back.

Optimizers and schedules keep dicts with numbers as keys, tuples and infinities, none of which JSON has: they are
written as a dict with one of the keys below, which no state of theirs uses.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TENSOR, _DICT, _TUPLE, _NUMBER = "__tensor__", "__dict__", "__tuple__", "__number__"
_MARKS = {_TENSOR, _DICT, _TUPLE, _NUMBER}


def pack(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """What JSON can hold of a nested state, and its tensors by name.

    Raises:
        TypeError: something in it is neither a tensor nor a dict, list, tuple, string, number, bool or None.

    Example:
        >>> pack({"step": {0: torch.zeros(2)}, "betas": (0.9, float("inf"))})[0]
        {'step': {'__dict__': [[0, {'__tensor__': 'step.0'}]]}, 'betas': {'__tuple__': [0.9, {'__number__': 'inf'}]}}
    """
    tensors: dict[str, Tensor] = {}
    return _pack(state, "", tensors), tensors


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = place or "value"
        tensors[name] = value
        return {_TENSOR: name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_NUMBER: repr(value)}
    if isinstance(value, Mapping):
        items = [(key, _pack(entry, f"{place}.{key}".lstrip("."), tensors)) for key, entry in value.items()]
        if all(isinstance(key, str) and key not in _MARKS for key, _ in items):
            return dict(items)
        if not all(isinstance(key, (str, int, bool)) for key, _ in items):
            raise TypeError(f"{place}: a dict with keys that are neither strings nor whole numbers cannot be saved")
        return {_DICT: [list(item) for item in items]}
    if isinstance(value, (list, tuple)):
        entries = [_pack(entry, f"{place}.{number}".lstrip("."), tensors) for number, entry in enumerate(value)]
        return entries if isinstance(value, list) else {_TUPLE: entries}
    raise TypeError(f"{place}: only tensors and plain data can be saved, found {type(value).__name__}")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(entry, tensors) for entry in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        (mark, content), *_ = packed.items()
        if mark == _TENSOR:
            return tensors[content]
        if mark == _NUMBER:
            return float(content)
        if mark == _TUPLE:
            return tuple(unpack(entry, tensors) for entry in content)
        if mark == _DICT:
            return {key: unpack(entry, tensors) for key, entry in content}
    return {key: unpack(entry, tensors) for key, entry in packed.items()}


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the CPU, contiguous, none sharing memory with another."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        # Views of one tensor, such as weights that two modules share, are written once for each name.
        if value.untyped_storage().data_ptr() in seen or value.untyped_storage().nbytes() != value.nbytes:
            value = value.clone(memory_format=torch.contiguous_format)
        seen.add(value.untyped_storage().data_ptr())
        stored[name] = value
    return stored
