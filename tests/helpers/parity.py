"""What public code computed, from the folder ../shared/parity beside the repository or from VOD2_PARITY_DIR."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.modules import load_module

PARITY = Path(os.environ.get("VOD2_PARITY_DIR") or Path(__file__).resolve().parents[3] / "shared" / "parity")


def parity_file(name: str) -> Path:
    """The file of that name; skips the test where it is not there."""
    path = PARITY / name
    if not path.is_file():
        pytest.skip(f"{path} does not exist: set VOD2_PARITY_DIR to the folder with {name}")
    return path


def public_shapes(method: str) -> dict[str, tuple[int, ...]]:
    """{public key: shape} of a model: "base", "rdn_base", "rdn", "mega", "fgfa" or "dff"."""
    listed = json.loads(parity_file(f"{method}_keys.json").read_text())
    return {key: tuple(shape) for key, shape in listed.items()}


def public_weights(method: str, salt: int = 0) -> dict[str, Tensor]:
    """{public key: float32 tensor}: the weights with which the outputs were computed."""
    weight = _weight_function()
    anchors = "rpn.anchor_generator.cell_anchors.0"  # is computed: any numbers of the shape will do
    return {
        key: torch.zeros(shape) if key == anchors else torch.from_numpy(weight(key, shape, salt))
        for key, shape in public_shapes(method).items()
    }


def public_outputs(method: str) -> dict[str, np.ndarray]:
    """frames (n, H, W, 3) RGB, global_order, and boxes_t, scores_t, labels_t (from 1) and some features_t."""
    with np.load(parity_file(f"{method}.npz")) as data:
        return dict(data)


@functools.cache
def _weight_function():
    module = load_module(parity_file("weights.py"))
    return module.weight
