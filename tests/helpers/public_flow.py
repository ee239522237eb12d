"""The flow networks of the public checkpoints of DFF and FGFA: every parameter's shape, by our names."""

import json
import os
from pathlib import Path

import pytest

from vod2.layers.flow_warp import PUBLIC_NAMES

PARITY = Path(os.environ.get("VOD2_PARITY_DIR") or Path(__file__).resolve().parents[3] / "shared" / "parity")

Shapes = dict[str, tuple[int, ...]]


def public_shapes(method: str) -> Shapes:
    """{public key: shape} of "dff" or "fgfa"; skips the test where the list is not there."""
    path = PARITY / f"{method}_keys.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist: set VOD2_PARITY_DIR to the folder with {path.name}")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def public_flownet(public: Shapes) -> Shapes:
    """The part of `public` that is the flow network, {name in our `FlowNetS`: shape}."""
    found = {}
    for key, shape in public.items():
        if key.startswith("flownet."):
            _, layer, part = key.split(".")
            found[f"{PUBLIC_NAMES[layer]}.{part}"] = shape
    return found
