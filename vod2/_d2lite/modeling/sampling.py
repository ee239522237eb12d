"""Random choice of a balanced set of labels."""

import torch
from torch import Tensor

from vod2._d2lite.layers import nonzero_tuple


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draw at most `num_samples` labels, of them at most the given fraction positive; negatives fill the rest.

    Args:
        labels: (N,); -1 is ignored, `bg_label` is negative, everything else is positive.

    Returns:
        Indices of the positive and of the negative samples. The draw uses torch's global generator.
    """
    # Positives are drawn first, as in Detectron2: the same seed gives the same samples
    positive = nonzero_tuple((labels != -1) & (labels != bg_label))[0]
    negative = nonzero_tuple(labels == bg_label)[0]
    num_positive = min(positive.numel(), int(num_samples * positive_fraction))
    num_negative = num_samples - num_positive
    return _draw(positive, num_positive), _draw(negative, num_negative)


def _draw(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(indices.numel(), device=indices.device)[:count]]
