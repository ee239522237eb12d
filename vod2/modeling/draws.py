"""What is drawn at random of one training clip: the anchors and the RoIs that are trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch


class Draw(IntEnum):
    """What is drawn: each is independent of the others."""

    ANCHORS = 1
    ROIS = 2


@contextmanager
def drawing_from(seed: int | None, draw: Draw, device: torch.device) -> Iterator[None]:
    """Let the global generator of a device draw from the seed of a clip, and put it back afterwards.

    So a clip is trained on the same anchors and RoIs whatever other clips its process has, and after a restart.

    Args:
        seed: the clip's `sample_seed`; None, of a clip that has none, leaves the generator alone.
    """
    if seed is None:
        yield
        return
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    state = generator.get_state()
    generator.manual_seed(4 * seed + draw)
    try:
        yield
    finally:
        generator.set_state(state)
