"""Deformable alignment of feature maps: the DAlign module of MST (section III-B, equations 1 and 2).

B: pairs of frames, C: channels of a map, W: width of the module, H, W': size of the maps.
"""

import torch
from torch import Tensor, nn

from vod2.layers.initialisation import init_he, zero_bias
from vod2.ops import deform_conv2d

_TAPS = 9  # of a 3x3 kernel


class ModulatedDeformConv(nn.Module):
    """3x3 convolution whose taps are moved and weighted by what a guide says (deformable convolution, version 2).

    A plain 3x3 convolution of the guide gives each position two offsets (down, right, in cells) and a mask in (0, 2)
    for each tap. It begins with offsets 0 and masks 1: as an ordinary convolution. Outside of the map all is 0, however
    far, also for an infinite offset. Where an offset is NaN, so is the result.

    Args:
        channels: of the input and the result.
        guide_channels: of the guide.
        modulated: whether there are masks; without, this is version 1, equation 2 of MST as printed.
    """

    def __init__(self, channels: int, guide_channels: int, modulated: bool = True) -> None:
        super().__init__()
        self.modulated = modulated
        self.sampling = nn.Conv2d(guide_channels, (3 if modulated else 2) * _TAPS, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        # Random offsets would scatter the taps before anything has been learned.
        nn.init.zeros_(self.sampling.weight)
        zero_bias(self.sampling)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """x (B, channels, H, W'), guide (B, guide_channels, H, W') -> (B, channels, H, W')."""
        sampling = self.sampling(guide)
        offsets = sampling[:, : 2 * _TAPS]
        # The layer begins with 0, whose sigmoid is 1/2: twice that leaves the taps as they are.
        mask = 2 * sampling[:, 2 * _TAPS :].sigmoid() if self.modulated else None
        # torchvision's operator reads outside of the map where an offset is NaN; all taps that leave the map are alike.
        unknown, outside = offsets.isnan().any(dim=1, keepdim=True), max(x.shape[2:]) + 2
        offsets = offsets.masked_fill(unknown, 0).clamp(-outside, outside)
        out = deform_conv2d(x, offsets, self.weight, self.bias, padding=1, mask=mask)
        return out.masked_fill(unknown, torch.nan)


class DeformAlign(nn.Module):
    """Brings a map to where another one has the same things.

    Both maps are reduced to W channels by one 1x1 convolution and concatenated; two deformable layers on that make the
    guide (2W channels), which moves the taps of a third one on the reduced source; a fourth one is its own guide, and a
    1x1 convolution leads back to C channels. A ReLU follows each layer but the last. Under autocast it computes in the
    precision of its weights: half precision would round large offsets to a tenth of a cell.

    Args:
        channels: C.
        width: W.
        residual: the result is added to the source, and the last layer begins with 0: the module begins as the
            identity. Without, the result takes the place of the source, as in equation 2.
        modulated: see `ModulatedDeformConv`.

    Example:
        >>> import torch
        >>> from vod2.layers import DeformAlign
        >>> source, target = torch.rand(2, 1, 32, 6, 8)
        >>> DeformAlign(channels=32, width=8)(source, target).shape
        torch.Size([1, 32, 6, 8])
        >>> DeformAlign(channels=32, width=8, residual=True)(source, target).equal(source)
        True
    """

    def __init__(self, channels: int, width: int = 128, *, residual: bool = False, modulated: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"DeformAlign: expected a width of at least 1, got {width}")
        self.residual = residual
        self.reduce = nn.Conv2d(channels, width, 1)
        self.fuse = nn.ModuleList(ModulatedDeformConv(2 * width, 2 * width, modulated) for _ in range(2))
        self.align = ModulatedDeformConv(width, 2 * width, modulated)
        self.refine = ModulatedDeformConv(width, width, modulated)
        self.expand = nn.Conv2d(width, channels, 1)
        init_he(self.reduce)
        nn.init.kaiming_normal_(self.expand.weight, nonlinearity="linear")  # no ReLU after it
        zero_bias(self.expand)
        if residual:
            nn.init.zeros_(self.expand.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source, target (B, C, H, W') -> (B, C, H, W') in the dtype of `source`; B may be 0."""
        with torch.autocast(source.device.type, enabled=False):
            # One layer for both maps: what the guide compares must be the same features.
            reduced, wanted = self._reduced(source), self._reduced(target)
            guide = torch.cat([wanted, reduced], dim=1)  # (B, 2W, H, W')
            for layer in self.fuse:
                guide = layer(guide, guide).relu()
            moved = self.align(reduced, guide).relu()
            moved = self.refine(moved, moved).relu()
            aligned = self.expand(moved).to(source.dtype)
            return source + aligned if self.residual else aligned

    def _reduced(self, maps: Tensor) -> Tensor:
        """(B, C, H, W') -> (B, W, H, W'); an expanded map, the target that all pairs share, is reduced once."""
        is_one = len(maps) > 1 and maps.stride(0) == 0
        different = maps[:1] if is_one else maps
        reduced = self.reduce(different.to(self.reduce.weight.dtype)).relu()
        return reduced.expand(len(maps), -1, -1, -1)
