"""Deformable convolution (Dai et al., ICCV 2017; with a mask Zhu et al., CVPR 2019), for inference on a CPU.

Letters: B maps, C channels, H, W cells, O channels of the result, P, Q its cells, K taps of the kernel, G groups of
channels that have offsets of their own.
"""

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d as plain_deform_conv2d

from vod2.ops.library import compiled_device_types
from vod2.ops.portable import is_portable

# Empty also where the extension was built before it had this kernel, which a GPU has none of.
COMPILED = tuple(
    device for device in compiled_device_types() if device == "cpu" and hasattr(torch.ops.vod2, "deform_columns")
)

_MOST_NUMBERS = 2**22
"""Of columns that are made at once, 16 MiB in float32, unless one map has more."""


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """The numbers of `torchvision.ops.deform_conv2d`, in less time on a CPU where nobody wants a gradient.

    What the taps see is gathered with channels last, as rows of a matrix product, map after map. torchvision's operator
    runs where something needs a gradient, on other devices, in half precision, for grouped kernels, and without the
    compiled extension.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 G K, P, Q), down and right in cells for each group and tap; outside of the map is 0.
        weight: (O, C, kernel height, kernel width).
        bias: (O,).
        stride, padding, dilation: one number, or those of height and width.
        mask: (B, G K, P, Q), what the taps are multiplied by; None for 1.

    Returns:
        (B, O, P, Q).

    Raises:
        ValueError: for shapes that do not fit, in the fast form; torchvision raises a RuntimeError.

    Example:
        >>> import torch
        >>> from vod2.ops import deform_conv2d
        >>> still = torch.zeros(1, 2 * 9, 6, 8)
        >>> deform_conv2d(torch.rand(1, 4, 6, 8), still, torch.rand(3, 4, 3, 3), padding=1).shape
        torch.Size([1, 3, 6, 8])
    """
    pairs = [_pair(value) for value in (stride, padding, dilation)]
    if not _is_fast([input, offset, weight, bias, mask]) or weight.shape[1] != input.shape[1]:
        return plain_deform_conv2d(input, offset, weight, bias, *pairs, mask)
    kernel = tuple(weight.shape[2:])
    # (K C, O), in the order of the columns: tap after tap, channels last.
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)
    area = offset.shape[2] * offset.shape[3]
    maps = max(1, _MOST_NUMBERS // max(area * matrix.shape[0], 1))
    out = input.new_empty(input.shape[0], *offset.shape[2:], weight.shape[0])
    for first in range(0, input.shape[0], maps):
        part = slice(first, first + maps)
        masks = None if mask is None else mask[part]
        columns = torch.ops.vod2.deform_columns(input[part], offset[part], masks, kernel, *pairs)
        rows, target = columns.flatten(0, 2), out[part].flatten(0, 2)
        if bias is None:
            torch.mm(rows, matrix, out=target)
        else:
            torch.addmm(bias, rows, matrix, out=target)
    return out.permute(0, 3, 1, 2)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _is_fast(tensors: list[Tensor | None]) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    device, dtype = given[0].device.type, given[0].dtype
    if device not in COMPILED or is_portable() or dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling() or any(tensor.dtype != dtype or tensor.device.type != device for tensor in given):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))


def _fake(maps, offsets, mask, kernel, stride, padding, dilation):
    taps = kernel[0] * kernel[1]
    return maps.new_empty(maps.shape[0], *offsets.shape[2:], taps * maps.shape[1])


if COMPILED:
    torch.library.register_fake("vod2::deform_columns", _fake)
