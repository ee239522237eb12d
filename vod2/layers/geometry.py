"""Where two boxes stand to each other, as an additive bias of attention.

N: query boxes, M: key boxes, h: heads, E: length of the embedding of a pair.
"""

from torch import Tensor, nn

from vod2 import ops


class GeometryBias(nn.Module):
    """Learned bias log(max(relu(Wg e + b), 1e-6)) of a pair of boxes, for each head (RDN section 3.2, after its [17]).

    e is the sine/cosine embedding of log(|dx|/w + 1e-3), log(|dy|/h + 1e-3), log(w/w'), log(h/h').

    Args:
        num_heads: h.
        dim: E, a multiple of 8.
        scale: factor of the embedding's arguments.
        wavelength: their longest wavelength.

    Example:
        >>> import torch
        >>> from vod2.layers import GeometryBias
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 2.0, 9.0, 9.0]])
        >>> GeometryBias(num_heads=16)(boxes, boxes).shape
        torch.Size([16, 2, 2])
    """

    def __init__(self, num_heads: int, dim: int = 64, scale: float = 100.0, wavelength: float = 1000.0) -> None:
        super().__init__()
        if dim <= 0 or dim % 8:
            raise ValueError(f"GeometryBias: expected a positive multiple of 8 for dim, got {dim}")
        self.scale, self.wavelength = scale, wavelength
        self.projection = nn.Linear(dim, num_heads)
        nn.init.normal_(self.projection.weight, std=0.05)
        # A pair whose relu is 0 gets no gradient: begin with every pair open.
        nn.init.ones_(self.projection.bias)

    def forward(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """query_boxes (N, 4), key_boxes (M, 4), xyxy pixels -> (h, N, M); boxes are constants to the gradient."""
        return ops.relation_geometry_bias(
            query_boxes,
            key_boxes,
            self.projection.weight,
            self.projection.bias,
            scale=self.scale,
            wavelength=self.wavelength,
        )
