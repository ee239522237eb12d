"""The size of a frame in the model: Detectron2's rule, and that of older code."""

import numpy as np

from vod2.d2 import CfgNode, detection_utils, transforms


class TruncatedResize(transforms.ResizeShortestEdge):
    """`ResizeShortestEdge` that cuts the longer side to whole pixels, where Detectron2 rounds both.

    Weights of older code saw frames of these sizes. Same arguments.

    Example:
        >>> from vod2.data import TruncatedResize
        >>> TruncatedResize.size_of(720, 1280, 600, 1000)
        (562, 999)
    """

    def get_transform(self, image: np.ndarray) -> transforms.Transform:
        height, width = image.shape[:2]
        if self.sample_style == "range":
            least, greatest = self.short_edge_length
            side = np.random.randint(least, greatest + 1)
        else:
            side = np.random.choice(self.short_edge_length)
        # Detectron2's way of saying that images keep their size.
        if side == 0:
            return transforms.NoOpTransform()
        return transforms.ResizeTransform(height, width, *self.size_of(height, width, int(side), self.max_size))

    @staticmethod
    def size_of(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
        """(height, width) after resizing; where the longer side would exceed `longest`, the shorter one gives way."""
        least, greatest = min(height, width), max(height, width)
        if greatest / least * shorter > longest:
            # As in maskrcnn-benchmark's `get_size`: the shorter side is rounded, only the longer one is cut.
            shorter = round(longest * least / greatest)
        shorter = max(shorter, 1)
        longer = int(shorter * greatest / least)
        longer = min(longer, max(longest, 1)) if shorter == 1 else longer
        return (shorter, longer) if height <= width else (longer, shorter)


class RoundedResize(transforms.ResizeShortestEdge):
    """Detectron2's `ResizeShortestEdge`, which leaves at least one pixel of the shorter side of a narrow strip."""

    def get_transform(self, image: np.ndarray) -> transforms.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, transforms.ResizeTransform) and min(transform.new_h, transform.new_w) < 1:
            height, width = max(transform.new_h, 1), max(transform.new_w, 1)
            return transforms.ResizeTransform(transform.h, transform.w, height, width)
        return transform


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[transforms.Augmentation]:
    """Detectron2's `build_augmentation`, that is resizing and flipping, with INPUT.RESIZE_TRUNCATES."""
    augmentations = detection_utils.build_augmentation(cfg, is_train)
    for position, augmentation in enumerate(augmentations):
        if isinstance(augmentation, transforms.ResizeShortestEdge):
            kind = TruncatedResize if cfg.INPUT.RESIZE_TRUNCATES else RoundedResize
            augmentations[position] = _resize(kind, cfg, is_train)
    return augmentations


def build_test_resize(cfg: CfgNode) -> transforms.Augmentation:
    """What the test loader does to a frame: resizing alone."""
    return build_augmentation(cfg, is_train=False)[0]


def _resize(kind: type[transforms.ResizeShortestEdge], cfg: CfgNode, is_train: bool) -> transforms.ResizeShortestEdge:
    if not is_train:
        return kind(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
    return kind(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
