"""EfficientNet-Lite0 under the names of the package that has its ImageNet weights."""

import numpy as np
import torch
from torch import Tensor

# Of the published network, block by block: expansion, kernel, channels in and out (Tan and Le, table 1).
BLOCKS = [
    (1, 3, 32, 16),
    *[(6, 3, 16, 24), (6, 3, 24, 24)],
    *[(6, 5, 24, 40), (6, 5, 40, 40)],
    *[(6, 3, 40, 80), *[(6, 3, 80, 80)] * 2],
    *[(6, 5, 80, 112), *[(6, 5, 112, 112)] * 2],
    *[(6, 5, 112, 192), *[(6, 5, 192, 192)] * 3],
    (6, 3, 192, 320),
]


def published_state() -> dict[str, Tensor]:
    """Random weights under the names of the package and in the shapes of the published network."""
    rng = torch.Generator().manual_seed(0)
    state = {}

    def layer(conv, norm, *shape):
        fan = np.prod(shape[1:])
        state[f"{conv}.weight"] = torch.randn(shape, generator=rng) * (2 / fan) ** 0.5
        for name in ("weight", "running_var"):
            state[f"{norm}.{name}"] = torch.rand(shape[0], generator=rng) + 0.5
        for name in ("bias", "running_mean"):
            state[f"{norm}.{name}"] = torch.randn(shape[0], generator=rng) * 0.1
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    for number, (expansion, kernel, narrow, out) in enumerate(BLOCKS):
        wide, here = expansion * narrow, f"_blocks.{number}."
        if expansion > 1:
            layer(f"{here}_expand_conv", f"{here}_bn0", wide, narrow, 1, 1)
        layer(f"{here}_depthwise_conv", f"{here}_bn1", wide, 1, kernel, kernel)
        layer(f"{here}_project_conv", f"{here}_bn2", out, wide, 1, 1)
    layer("_conv_head", "_bn1", 1280, 320, 1, 1)
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return state
