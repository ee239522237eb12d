"""Optical flow between two images, and feature maps moved along it (FlowNetS; DFF, FGFA).

B: pairs, C: channels, H, W: size of a map. A flow (B, 2, H, W) is (x, y) in cells of the map that it stands for: what
the current image shows at cell p, the reference image shows at p + flow(p).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vod2.layers.initialisation import init_he
from vod2.layers.module_list import ModuleList

# channels, kernel and stride of the contracting half; every second output is joined to the expanding half
_CONTRACT = (
    (64, 7, 2),
    (128, 5, 2),
    (256, 5, 2),
    (256, 3, 1),
    (512, 3, 2),
    (512, 3, 1),
    (512, 3, 2),
    (512, 3, 1),
    (1024, 3, 2),
    (1024, 3, 1),
)
_EXPAND = (512, 256, 128, 64)
_SLOPE = 0.1  # of the leaky ReLU
_FLOW_UNIT = 2.5  # cells of stride 16 for 1 of what the network puts out

PUBLIC_NAMES = {
    "flow_conv1": "contract.0",
    "conv2": "contract.1",
    "conv3": "contract.2",
    "conv3_1": "contract.3",
    "conv4": "contract.4",
    "conv4_1": "contract.5",
    "conv5": "contract.6",
    "conv5_1": "contract.7",
    "conv6": "contract.8",
    "conv6_1": "contract.9",
    "Convolution1": "predict.0",
    "Convolution2": "predict.1",
    "Convolution3": "predict.2",
    "Convolution4": "predict.3",
    "Convolution5": "flow",
    "Convolution5_scale": "scale",
    "deconv5": "expand.0",
    "deconv4": "expand.1",
    "deconv3": "expand.2",
    "deconv2": "expand.3",
    "upsample_flow6to5": "upsample.0",
    "upsample_flow5to4": "upsample.1",
    "upsample_flow4to3": "upsample.2",
    "upsample_flow3to2": "upsample.3",
}
"""Layers of the flow network in public checkpoints -> layers of `FlowNetS`; weights have the same shapes."""


class FlowOutput(NamedTuple):
    """What `FlowNetS` returns: flow (B, 2, H/16, W/16), and scale (B, C, H/16, W/16) where it was asked for."""

    flow: Tensor
    scale: Tensor | None


class FlowNetS(nn.Module):
    """FlowNetSimple at half resolution (Dosovitskiy et al., ICCV 2015), as DFF and FGFA use it, for maps of stride 16.

    A new one has a flow of 0 and a scale of 1 everywhere.

    Args:
        width: factor of all inner channels; 1 is the public form with 38,676,514 parameters.
        scale_channels: C of DFF's scale map, 0 for none.
        pixel_std: what the images were divided by in normalisation, for each channel.

    Raises:
        ValueError: if width is not positive.

    Example:
        >>> import torch
        >>> from vod2.layers import FlowNetS
        >>> net, images = FlowNetS(width=0.125), torch.rand(2, 3, 64, 96)
        >>> halves = net.prepare(images)
        >>> net(halves[:1], halves[1:]).flow.shape
        torch.Size([1, 2, 4, 6])
    """

    def __init__(
        self, width: float = 1.0, scale_channels: int = 0, pixel_std: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        self.pixel_scale: Tensor
        if width <= 0:
            raise ValueError(f"FlowNetS: expected a positive width, got {width}")
        # FlowNet's own inputs are in [0, 1]. Not saved: it follows from the configuration, and public weights lack it.
        pixel_scale = torch.tensor(pixel_std, dtype=torch.float64).view(-1, 1, 1) / 255
        self.register_buffer("pixel_scale", pixel_scale, persistent=False)
        contract = [max(1, round(width * channels)) for channels, _, _ in _CONTRACT]
        expand = [max(1, round(width * channels)) for channels in _EXPAND]
        skips = contract[7:0:-2]  # of the expanding half's steps
        # Each step joins a skip, its own result, and the upsampled flow (2) of the step before.
        joined = [contract[-1], *(skip + up + 2 for skip, up in zip(skips, expand, strict=True))]
        self.contract = ModuleList(
            nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)
            for before, after, (_, kernel, stride) in zip([6, *contract], contract, _CONTRACT, strict=False)
        )
        self.predict = ModuleList(nn.Conv2d(channels, 2, 3, padding=1) for channels in joined[:-1])
        self.expand = ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in zip(joined, expand, strict=False)
        )
        self.upsample = ModuleList(nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1) for _ in expand)
        self.flow = nn.Conv2d(joined[-1], 2, 3, padding=1)
        self.scale = nn.Conv2d(joined[-1], scale_channels, 1, bias=False) if scale_channels else None
        self._initialise()

    def _initialise(self) -> None:
        init_he(*self.contract, slope=_SLOPE)
        # A flow of 0 at first: of near frames that is nearly right, a random one would scramble the maps.
        for parameter in self.flow.parameters():
            nn.init.zeros_(parameter)
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> what `forward` takes of each (B, 3, ceil(H/2), ceil(W/2))."""
        return F.avg_pool2d(images * self.pixel_scale.to(images.dtype), 2, ceil_mode=True)

    def forward(self, current: Tensor, reference: Tensor) -> FlowOutput:
        """Two times B images from `prepare` -> where in `reference` is what `current` shows."""
        x, skips = torch.cat([current, reference], dim=1), []  # (B, 6, H, W)
        for number, layer in enumerate(self.contract):
            x = F.leaky_relu(layer(x), _SLOPE)
            if number % 2:
                skips.append(x)
        x = skips.pop()
        for predict, expand, upsample in zip(self.predict, self.expand, self.upsample, strict=True):
            skip = skips.pop()
            height, width = skip.shape[-2:]
            larger = torch.cat([F.leaky_relu(expand(x), _SLOPE), upsample(predict(x))], dim=1)
            # On the way down an odd side is rounded up, so what comes up may be a cell too large.
            x = torch.cat([skip, larger[..., :height, :width]], dim=1)
        # From stride 4 of images of half the size, which is 8, to that of the maps, 16.
        x = F.avg_pool2d(x, 2, ceil_mode=True)
        return FlowOutput(_FLOW_UNIT * self.flow(x), None if self.scale is None else 1 + self.scale(x))


def warp(features: Tensor, flow: Tensor, *, legacy: bool = False) -> Tensor:
    """Sample each map, bilinearly, at its cells plus `flow`; in half precision the computation is in float32.

    Beyond the outermost cells' centres the map goes on with their values, however far, also for an infinite flow. Where
    a flow is NaN, so is the result, and neither the flow nor the map gets a gradient from there.

    Args:
        features: (B, C, H, W).
        flow: (B, 2, H, W), x and y in cells.
        legacy: sample where the public code of DFF and FGFA does, at n p / (n - 1) - 1/2 for the position p on an axis
            of n cells: a flow of 0 then shrinks the map a little. Otherwise it is the identity.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if features and flow differ in B, H or W.

    Example:
        >>> import torch
        >>> from vod2.layers import warp
        >>> row, right = torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        >>> warp(row, right.expand(1, 2, 1, 3)).flatten().tolist()
        [1.0, 2.0, 2.0]
    """
    B, _, H, W = features.shape
    if flow.shape != (B, 2, H, W):
        raise ValueError(f"warp: expected a flow of the shape {(B, 2, H, W)}, got {tuple(flow.shape)}")
    dtype = torch.promote_types(features.dtype, torch.float32)
    y, x = torch.meshgrid(
        torch.arange(H, dtype=dtype, device=flow.device),
        torch.arange(W, dtype=dtype, device=flow.device),
        indexing="ij",
    )
    position = torch.stack([x, y]) + flow.to(dtype)
    # The backward of grid_sample writes outside of the map where a coordinate is NaN.
    unknown = position.isnan().any(dim=1, keepdim=True)  # (B, 1, H, W)
    position = position.masked_fill(unknown, 0)
    size = position.new_tensor([W, H]).view(2, 1, 1)
    # grid_sample (align_corners False) has the edges of the outermost cells at -1 and 1. The public code has their
    # centres there; on an axis of one cell it would divide by 0.
    if legacy:
        grid = 2 * position / (size - 1).clamp(min=1) - 1
    else:
        grid = (2 * position + 1) / size - 1
    grid = grid.permute(0, 2, 3, 1)  # (B, 2, H, W) -> (B, H, W, 2)
    sampled = F.grid_sample(features.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.masked_fill(unknown, torch.nan).to(features.dtype)
