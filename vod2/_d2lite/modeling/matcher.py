"""Assignment of ground truth to predictions by thresholds on their overlap.

Letters: M ground truths, N predictions.
"""

import torch
from torch import Tensor


class Matcher:
    """Labels each of N predictions by the interval in which its best overlap lies.

    Args:
        thresholds: positive, ascending.
        labels: one more than thresholds: -1 ignored, 0 background, 1 foreground. An overlap equal to a threshold
            belongs to the interval above it.
        allow_low_quality_matches: also make foreground of those predictions that are the best of some ground truth
            (all of them in a tie), however small their overlap.
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False):
        if any(t <= 0 for t in thresholds) or list(thresholds) != sorted(thresholds):
            raise ValueError(f"thresholds {thresholds}: expected positive numbers in ascending order")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise ValueError(f"labels {labels}: expected {len(thresholds) + 1} values out of -1, 0, 1")
        self.thresholds = list(thresholds)
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match by an (M, N) matrix of overlaps in [0, 1].

        Returns:
            matches (N,) int64, the best ground truth of each prediction, and labels (N,) int8. Without ground truth
            the matches are 0 and the labels those of the lowest interval.
        """
        # max() needs at least one ground truth
        if match_quality_matrix.numel() == 0:
            matches = match_quality_matrix.new_zeros(match_quality_matrix.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        quality, matches = match_quality_matrix.max(dim=0)
        labels = torch.full_like(matches, self.labels[0], dtype=torch.int8)
        for threshold, label in zip(self.thresholds, self.labels[1:], strict=True):
            labels[quality >= threshold] = label
        if self.allow_low_quality_matches:
            # As in Detectron2: where nothing overlaps a ground truth, its best is 0, and all with 0 become
            # foreground
            best_of_each = match_quality_matrix.max(dim=1, keepdim=True).values  # (M, 1)
            labels[(match_quality_matrix == best_of_each).any(dim=0)] = 1
        return matches, labels
