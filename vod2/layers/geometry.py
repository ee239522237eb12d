"""Where two boxes stand to each other, as an additive bias of attention.

N: query boxes, M: key boxes, h: heads, E: length of the embedding of a pair, without that of aspect ratios.
"""

import torch
from torch import Tensor, nn

from vod2 import ops

_FLOOR = 1e-6
_MIN_SIZE = 1e-3  # smallest width and height of a box in pixels, as in `ops.relation_geometry_bias`
_MIN_DIFFERENCE = 1e-3  # added to the difference of two aspect ratios before its logarithm, as to distances there


class GeometryBias(nn.Module):
    """Learned bias log(max(relu(Wg e + b), 1e-6)) of a pair of boxes, for each head (RDN section 3.2, after its [17]).

    e is the sine/cosine embedding of log(|dx|/w + 1e-3), log(|dy|/h + 1e-3), log(w/w'), log(h/h'); without position it
    is that of the last two, with twice as many frequencies (MST, equation 9, the terms that are legible). With aspect
    it is longer by E / 2 numbers, those of log(|w/h - w'/h'| + 1e-3).

    Args:
        num_heads: h.
        dim: E, a multiple of 8.
        scale: factor of the embedding's arguments.
        wavelength: their longest wavelength.
        position: whether the embedding tells the distance of the centres.
        aspect: whether it tells the difference of the aspect ratios; only without position.

    Raises:
        ValueError: `dim` is no multiple of 8, or `position` and `aspect` are both asked for.

    Example:
        >>> import torch
        >>> from vod2.layers import GeometryBias
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 2.0, 9.0, 9.0]])
        >>> GeometryBias(num_heads=16)(boxes, boxes).shape
        torch.Size([16, 2, 2])
    """

    def __init__(
        self,
        num_heads: int,
        dim: int = 64,
        scale: float = 100.0,
        wavelength: float = 1000.0,
        *,
        position: bool = True,
        aspect: bool = False,
    ) -> None:
        super().__init__()
        if dim <= 0 or dim % 8:
            raise ValueError(f"GeometryBias: expected a positive multiple of 8 for dim, got {dim}")
        if position and aspect:
            raise ValueError("GeometryBias: aspect is for boxes without position")
        self.scale, self.wavelength, self.position, self.aspect = scale, wavelength, position, aspect
        self.count = dim // 4  # frequencies of a term, without position
        self.projection = nn.Linear(dim + 2 * self.count * aspect, num_heads)
        nn.init.normal_(self.projection.weight, std=0.05)
        # A pair whose relu is 0 gets no gradient: begin with every pair open.
        nn.init.ones_(self.projection.bias)

    def forward(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """query_boxes (N, 4), key_boxes (M, 4), xyxy pixels -> (h, N, M); boxes are constants to the gradient."""
        if not self.position:
            return self._size_bias(query_boxes, key_boxes)
        return ops.relation_geometry_bias(
            query_boxes,
            key_boxes,
            self.projection.weight,
            self.projection.bias,
            scale=self.scale,
            wavelength=self.wavelength,
        )

    def _size_bias(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """The embedding of sizes alone is never made: the sine and cosine of a difference of logarithms separate.

        With u of the query and v of the key, a sin(u - v) + b cos(u - v) is
        sin(u) (a cos(v) + b sin(v)) + cos(u) (b cos(v) - a sin(v)): one product of (N, E) and (E, M) for each head.
        """
        weight, bias = self.projection.weight[:, : 4 * self.count], self.projection.bias
        # Angles are logarithms times up to `scale`: half precision would be off by up to whole radians.
        dtype = torch.promote_types(torch.promote_types(query_boxes.dtype, weight.dtype), torch.float32)
        with torch.autocast(weight.device.type, enabled=False):
            u, v = (self._size_angles(boxes.detach().to(dtype)) for boxes in (query_boxes, key_boxes))  # (., 2, E/4)
            a, b = weight.to(dtype).unflatten(1, (2, 2, -1)).unbind(2)  # of width and height: (h, 2, E/4) each
            sin, cos = v.sin(), v.cos()
            # (h, M, 2, E/4, 2): what multiplies sin(u) and cos(u) of the query.
            key = torch.stack([a[:, None] * cos + b[:, None] * sin, b[:, None] * cos - a[:, None] * sin], dim=4)
            query = torch.stack([u.sin(), u.cos()], dim=3)  # (N, 2, E/4, 2)
            logits = query.flatten(1) @ key.flatten(2).transpose(1, 2) + bias.to(dtype)[:, None, None]  # (h, N, M)
            if self.aspect:
                logits = logits + self._aspect_logits(query_boxes.detach().to(dtype), key_boxes.detach().to(dtype))
            return logits.clamp(min=_FLOOR).log().to(weight.dtype)

    def _size_angles(self, boxes: Tensor) -> Tensor:
        """(N, 4) -> (N, 2, E/4): the logarithms of width and height times each frequency."""
        return _sizes(boxes).log()[:, :, None] * self._frequencies(boxes)

    def _aspect_logits(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """(h, N, M); the absolute value does not separate, so N M E / 2 numbers are made."""
        query, key = (_sizes(boxes)[:, 0] / _sizes(boxes)[:, 1] for boxes in (query_boxes, key_boxes))
        # As the distances in the op: plus a number before the logarithm, for boxes of the same shape.
        logarithms = ((query[:, None] - key).abs() + _MIN_DIFFERENCE).log()  # (N, M)
        angles = logarithms[..., None] * self._frequencies(query_boxes)  # (N, M, E/4)
        weight = self.projection.weight[:, 4 * self.count :].to(query_boxes.dtype)
        return (torch.cat([angles.sin(), angles.cos()], dim=2) @ weight.T).permute(2, 0, 1)

    def _frequencies(self, boxes: Tensor) -> Tensor:
        """(E/4,): what a logarithm is multiplied with."""
        exponents = torch.arange(self.count, dtype=boxes.dtype, device=boxes.device) / self.count
        return self.scale / self.wavelength**exponents


def _sizes(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N, 2) width and height."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=_MIN_SIZE)
