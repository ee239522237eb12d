"""How a map is brought to another frame by comparing cells: learned locations, a window, or all cells (LSTS, 3.2).

B: maps, C: channels, E: channels of the embeddings, H, W: cells, N: locations.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.layers.initialisation import init_normal
from vod2.ops import st_sampling
from vod2.ops.st_sampling import SAMPLING_NORMALISERS


class LearnedSampling(nn.Module):
    """Each cell of the target takes a weighted sum of the source at N places around it (LSTS, equations 1 to 4).

    The weights compare the embeddings f(source) and g(target), 1x1 convolutions; what is summed is the source itself.
    The locations are the same for all cells and, unless told otherwise, learned.

    Args:
        channels: C.
        embedding: E.
        num: N, at least 1; a square of an odd number for "uniform".
        init: "gaussian" for independent coordinates of mean 0 and standard deviation `init_std`, "uniform" for all
            whole offsets of a square window (81: up to 4 cells to each side).
        init_std: in cells, of "gaussian".
        learned: whether the locations are a parameter; otherwise they are a buffer.
        normaliser: of the weights, "softmax" or "linear" (see `st_sampling`).
        lr_multiplier: on the learning rate of the locations, which also get no weight decay: that would pull them
            to the cell itself.
        equal_start: f and g begin with the same weights, see `embeddings`.
        generator: draws the Gaussian locations; None for PyTorch's own.

    Attributes:
        locations: (N, 2), dx and dy in cells.
        lr_multipliers, no_weight_decay: for `vod2.engine.optimizer`, by name of the parameter.

    Raises:
        ValueError: for an unknown `init` or `normaliser`, a number of locations that does not fit, or a multiplier or
            a standard deviation below 0.

    Example:
        >>> import torch
        >>> from vod2.layers.st_sampling import LearnedSampling
        >>> sampling = LearnedSampling(channels=32, embedding=8, num=5)
        >>> sampling(torch.rand(1, 32, 6, 7), torch.rand(1, 32, 6, 7)).shape
        torch.Size([1, 32, 6, 7])
    """

    def __init__(
        self,
        channels: int,
        embedding: int = 256,
        num: int = 40,
        init: str = "gaussian",
        *,
        init_std: float = 1.0,
        learned: bool = True,
        normaliser: str = "softmax",
        lr_multiplier: float = 1.0,
        equal_start: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if normaliser not in SAMPLING_NORMALISERS:
            raise ValueError(f"normaliser is {normaliser!r}: expected one of {', '.join(SAMPLING_NORMALISERS)}")
        if lr_multiplier < 0:
            raise ValueError(f"lr_multiplier is {lr_multiplier}: expected a number of at least 0")
        self.normaliser = normaliser
        self.source_embedding, self.target_embedding = embeddings(channels, embedding, equal_start)
        # Locations get a rate of their own and no weight decay, by what the optimizer reads of the layer.
        locations = initial_locations(num, init, init_std, generator)
        self.lr_multipliers: dict[str, float] = {}
        self.no_weight_decay: tuple[str, ...] = ()
        if learned:
            self.locations = nn.Parameter(locations)
            self.lr_multipliers = {"locations": lr_multiplier}
            self.no_weight_decay = ("locations",)
        else:
            self.register_buffer("locations", locations)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) twice -> (B, C, H, W), `source` where `target` has the same things."""
        # The embeddings only decide about the weights: what is summed is the source, in its C channels.
        key, query = self.source_embedding(source), self.target_embedding(target)
        return st_sampling(source, key, query, self.locations, self.normaliser)


class MatchTrans(LearnedSampling):
    """Every cell within a square window, none of them learned (STMN, Xiao and Lee, ECCV 2018; LSTS, table 3).

    Args:
        channels, embedding, normaliser, equal_start: see `LearnedSampling`. STMN divides by the sum of the scores
            ("linear"), which are not negative there, as it compares features after a ReLU; the embeddings here may give
            scores of both signs, so the default is a softmax.
        radius: cells to each side.

    Example:
        >>> import torch
        >>> from vod2.layers.st_sampling import MatchTrans
        >>> len(MatchTrans(channels=32, embedding=8).locations)
        81
    """

    def __init__(
        self,
        channels: int,
        embedding: int = 256,
        radius: int = 4,
        *,
        normaliser: str = "softmax",
        equal_start: bool = True,
    ) -> None:
        if radius < 0:
            raise ValueError(f"radius is {radius}: expected at least 0 cells")
        num = (2 * radius + 1) ** 2
        super().__init__(
            channels, embedding, num, "uniform", learned=False, normaliser=normaliser, equal_start=equal_start
        )


class NonLocalAlign(nn.Module):
    """Each cell of the target takes a weighted sum of all cells of the source (LSTS, table 3).

    The weights are a softmax over the dot products of the embeddings, without a scale (Wang et al., CVPR 2018,
    embedded Gaussian). The pairs of cells are never stored where PyTorch's fused attention runs: its heads must be as
    wide as the embedding, so the C channels of the values are split among heads that share query and key.

    Args:
        channels: C.
        embedding: E.
        equal_start: see `embeddings`.

    Example:
        >>> import torch
        >>> from vod2.layers.st_sampling import NonLocalAlign
        >>> NonLocalAlign(channels=32, embedding=8)(torch.rand(1, 32, 6, 7), torch.rand(1, 32, 6, 7)).shape
        torch.Size([1, 32, 6, 7])
    """

    def __init__(self, channels: int, embedding: int = 256, *, equal_start: bool = True) -> None:
        super().__init__()
        self.source_embedding, self.target_embedding = embeddings(channels, embedding, equal_start)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) twice -> (B, C, H, W), `source` where `target` has the same things."""
        key, query = self.source_embedding(source), self.target_embedding(target)
        C, E = source.shape[1], key.shape[1]
        heads = -(-C // E)  # rounded up: the last one may have channels to spare, which are 0
        value = F.pad(source.flatten(2).to(key.dtype), (0, 0, 0, heads * E - C))  # (B, heads * E, H * W)
        # (B, E, H, W) -> (B, heads, H * W, E), the same for all heads: expanded, not copied.
        k, q = (x.flatten(2).transpose(1, 2)[:, None].expand(-1, heads, -1, -1) for x in (key, query))
        v = value.unflatten(1, (heads, E)).transpose(2, 3)  # (B, heads, H * W, E)
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        out = out.transpose(2, 3).flatten(1, 2)[:, :C]  # (B, C, H * W)
        return out.unflatten(2, source.shape[2:]).to(source.dtype)


def embeddings(channels: int, embedding: int, equal_start: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    """f and g, two 1x1 convolutions of C to E channels; with `equal_start` they begin with the same weights.

    So from the first step on, cells that show the same in both maps score high. The dot product of two independent
    projections says nothing at first, and what the weights should compare has to be found by the detection loss alone.
    """
    source = nn.Conv2d(channels, embedding, kernel_size=1)
    std = 0.32 / math.sqrt(channels)  # .01 at the paper's 1024
    init_normal(source, std=std)
    # A copy and not the same layer: after the first step the two are free to differ.
    target = copy.deepcopy(source)
    if not equal_start:
        nn.init.normal_(target.weight, std=std)
    return source, target


def initial_locations(num: int, init: str, std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """(N, 2) offsets in cells, see `LearnedSampling`."""
    if num < 1:
        raise ValueError(f"the number of locations is {num}: expected at least 1")
    if not std >= 0:
        raise ValueError(f"init_std is {std}: expected a number of at least 0")
    if init == "gaussian":
        return std * torch.randn(num, 2, generator=generator)
    if init != "uniform":
        raise ValueError(f"init is {init!r}: expected 'gaussian' or 'uniform'")
    side = math.isqrt(num)
    if side**2 != num or side % 2 == 0:
        raise ValueError(f"{num} uniform locations are no window around a cell: expected 9, 25, 49, 81, ...")
    # x and y in the order of grid_sample; rows from above, as the cells of a map are counted.
    steps = torch.arange(side, dtype=torch.get_default_dtype()) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)  # (side, side, 2) -> (N, 2)
