"""RoIAlign: boxes of a feature map as grids of bins (He et al., Mask R-CNN, ICCV 2017, section 3).

Letters: B maps, C channels, H, W cells, M RoIs, P x Q bins of a RoI, S samples of a bin along an axis.

A bin is the mean of S x S bilinear samples. These are a grid, so the mean is a sum over the cells that the bin touches,
whose weights are products of one of the row and one of the column:

    out(m, c, p, q) = sum_y sum_x r_mp(y) s_mq(x) features(c, y, x)

The compiled kernels find r and s once for all channels and read a cell once for a bin, however many samples it has
there. A map with channels last suits them as it is. The gradient is the transposed sum, without atomics: two runs give
the same bits, also on a GPU.
"""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from vod2.ops.library import compiled_device_types
from vod2.ops.portable import is_portable

# Empty also where the extension was built before it had these kernels.
COMPILED = compiled_device_types() if hasattr(torch.ops.vod2, "roi_align") else ()


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """The numbers of `torchvision.ops.roi_align`, in a fraction of its time on a CPU.

    A sample counts as 0 from one cell outside of the map on, and until there as the border. An infinite coordinate is
    one far outside. All bins of a RoI with a NaN are NaN, and give the map no gradient. torchvision's operator, which
    runs where there are no kernels for the device, or `portable` is on, has no such rules: its coordinates must be
    finite.

    Args:
        features: (B, C, H, W) floating point, channels first or last in memory.
        rois: (M, 5): number of the map, then xyxy in pixels. They get no gradient.
        output_size: (P, Q).
        spatial_scale: cells per pixel, 1 / stride of the maps.
        sampling_ratio: S; 0 for as many as a bin has cells, rounded up.
        aligned: the centre of pixel i is at i + 0.5. False is the older convention, off by half a cell; there, a RoI is
            at least one cell wide and high.

    Returns:
        (M, C, P, Q), channels first in memory, in the dtype of `features`; computed in that, at least in float32, also
        under autocast. The gradient has the map's order in memory and does not depend on the number of threads.

    Raises:
        ValueError: for a shape, a device, an option or a number of a map that does not fit.

    Example:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # each cell's column
        >>> roi_align(ramp, torch.tensor([[0, 0.0, 0.0, 64.0, 64.0]]), (1, 2), spatial_scale=1 / 16).tolist()
        [[[[0.5, 2.5]]]]
    """
    _check_inputs(features, rois)
    dtype = torch.promote_types(features.dtype, torch.float32)
    # Half precision cannot hold pixel coordinates: bfloat16 counts in steps of 4 beyond 512.
    maps, boxes = features.to(dtype), rois.detach().to(dtype)
    options = (spatial_scale, sampling_ratio, aligned)
    with torch.autocast(features.device.type, enabled=False):
        if features.device.type in COMPILED and not is_portable():
            out = torch.ops.vod2.roi_align(maps, boxes, *output_size, *options)
        else:
            out = torchvision.ops.roi_align(maps, boxes, tuple(output_size), *options)
    return out.to(features.dtype)


class ROIAlign(nn.Module):
    """`roi_align` as a layer, with the constructor and the attributes of Detectron2's.

    Args:
        output_size, spatial_scale, sampling_ratio, aligned: see `roi_align`.

    Example:
        >>> ROIAlign((7, 7), 1 / 16, 2)(torch.rand(1, 4, 8, 8), torch.tensor([[0, 8.0, 8.0, 64.0, 96.0]])).shape
        torch.Size([1, 4, 7, 7])
    """

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """(B, C, H, W), (M, 5) -> (M, C, P, Q)."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _check_inputs(features: Tensor, rois: Tensor) -> None:
    if features.dim() != 4:
        raise ValueError(f"features must have shape (B, C, H, W), got {list(features.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must have shape (M, 5), the number of the map and xyxy, got {list(rois.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if rois.device != features.device:
        raise ValueError(f"rois are on {rois.device}, but features on {features.device}: move them to one device")


def _channels_lie_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _fake_forward(features, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned):
    return features.new_empty((rois.shape[0], features.shape[1], pooled_height, pooled_width))


def _fake_backward(grad, rois, map_size: Sequence[int], channels_last, spatial_scale, sampling_ratio, aligned):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(map_size), dtype=grad.dtype, device=grad.device, memory_format=memory_format)


def _save_for_backward(ctx, inputs, output):
    features, rois, _, _, *ctx.options = inputs
    # The pooling is linear in the map: its gradient needs the size of the map, not what is in it.
    ctx.save_for_backward(rois)
    ctx.map_size, ctx.channels_last = features.shape, _channels_lie_last(features)


def _backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    grad_map = None
    if ctx.needs_input_grad[0]:
        grad_map = torch.ops.vod2.roi_align_backward(grad, rois, ctx.map_size, ctx.channels_last, *ctx.options)
    return grad_map, *[None] * 6


def _save_for_second_backward(ctx, inputs, output):
    grad, rois, _, _, *ctx.options = inputs
    ctx.save_for_backward(rois)
    ctx.pooled_size = grad.shape[2:]


def _second_backward(ctx, grad_grad):
    """The gradient is linear in what comes in; its transposed is the pooling itself."""
    (rois,) = ctx.saved_tensors
    return torch.ops.vod2.roi_align(grad_grad, rois, *ctx.pooled_size, *ctx.options), *[None] * 6


if COMPILED:
    torch.library.register_fake("vod2::roi_align", _fake_forward)
    torch.library.register_fake("vod2::roi_align_backward", _fake_backward)
    torch.library.register_autograd("vod2::roi_align", _backward, setup_context=_save_for_backward)
    torch.library.register_autograd(
        "vod2::roi_align_backward", _second_backward, setup_context=_save_for_second_backward
    )
