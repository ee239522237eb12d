"""Settings that fit a detector to somebody's data: the size of the images, the anchors, the classes, the iterations."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vod2.d2 import BoxMode
from vod2.errors import UserError

_LEAST_OBJECT = 16  # pixels that most objects should have in the resized image
_SMALL_OBJECT = 24  # pixels below which a map of stride 16 has too few cells for an object
_SIDES = (192, 512)  # the shorter side of the resized images, at least and at most
_ALIKE = 1.3  # anchors whose sides or ratios differ by less than this factor are one
_MANY_RATIOS = 1.6


class Fitted(NamedTuple):
    """What a dataset suggests.

    Attributes:
        min_size, max_size: pixels of the shorter side, and at most of the longer side, of the resized images.
        anchor_sizes: sides (square roots of areas) in pixels of the resized images, ascending.
        aspect_ratios: height / width, ascending.
        stride: pixels of the resized image between two cells of the feature map, 8 or 16.
    """

    min_size: int
    max_size: int
    anchor_sizes: list[int]
    aspect_ratios: list[float]
    stride: int

    def items(self) -> list[tuple[str, str]]:
        """Configuration keys and values, as a command line has them."""
        keys: dict[str, Any] = {
            "INPUT.MIN_SIZE_TRAIN": (self.min_size,),
            "INPUT.MAX_SIZE_TRAIN": self.max_size,
            "INPUT.MIN_SIZE_TEST": self.min_size,
            "INPUT.MAX_SIZE_TEST": self.max_size,
            "MODEL.ANCHOR_GENERATOR.SIZES": [self.anchor_sizes],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [self.aspect_ratios],
        }
        if self.stride == 8:
            # As configs/drones has it: the third stage keeps the resolution, and has one more block.
            keys |= {"MODEL.NARROW_RESNET.STRIDES": [1, 2, 1, 1], "MODEL.NARROW_RESNET.BLOCKS": [1, 1, 2, 1]}
        return [(key, str(value)) for key, value in keys.items()]


def fit_to_boxes(records: Sequence[dict]) -> Fitted:
    """Image size and anchors from the boxes of a dataset.

    Three quarters of the objects get at least 16 pixels (the root of the area) in the resized image, as far as its
    shorter side stays between 192 and 512 pixels and the frames are not enlarged. Anchors have the sizes of the
    smallest to the largest twentieth of the objects there, in at most five steps, and one to three aspect ratios. The
    stride is 8 if a quarter of the objects have less than 24 pixels.

    Args:
        records: Detectron2's dataset dicts, with height, width and annotations.

    Raises:
        UserError: no record has an object.

    Example:
        >>> box = {"bbox": [0, 0, 40, 40], "bbox_mode": BoxMode.XYXY_ABS}
        >>> fit_to_boxes([{"height": 480, "width": 640, "annotations": [box]}])
        Fitted(min_size=192, max_size=256, anchor_sizes=[16], aspect_ratios=[1.0], stride=8)
    """
    frames = np.array([(record["height"], record["width"]) for record in records], dtype=np.float64).reshape(-1, 2)
    short_side, long_side = frames.min(1), frames.max(1)
    sides, ratios = [], []  # of each object: the root of its area by the shorter side of its frame; height / width
    for record, shorter in zip(records, short_side.tolist(), strict=True):
        for annotation in record.get("annotations", []):
            x1, y1, x2, y2 = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
            width, height = x2 - x1, y2 - y1
            if width > 0 and height > 0:
                sides.append(math.sqrt(width * height) / shorter)
                ratios.append(height / width)
    if not sides:
        raise UserError(f"none of the {len(records)} frames to train on has an object: check the annotations")

    wanted = _LEAST_OBJECT / float(np.quantile(sides, 0.25))
    min_size = round(float(np.clip(wanted, _SIDES[0], min(_SIDES[1], np.median(short_side)))))
    # Of the longest frames, so that none is resized by another factor than the anchors are made for.
    max_size = math.ceil(min_size * float((long_side / short_side).max()))
    stride = 8 if min_size * np.quantile(sides, 0.25) < _SMALL_OBJECT else 16
    # Those of objects that are there: between two kinds of objects nothing would have the size that lies in the middle.
    sizes = _apart(min_size * np.quantile(sides, [0.05, 0.25, 0.5, 0.75, 0.95], method="nearest"), _ALIKE)
    aspect = _apart(np.quantile(ratios, [0.1, 0.5, 0.9], method="nearest"), _MANY_RATIOS)
    return Fitted(
        min_size,
        max_size,
        [max(round(size), 1) for size in sizes],
        [round(ratio, 2) for ratio in aspect],
        stride,
    )


def _apart(values: np.ndarray, factor: float) -> list[float]:
    """Ascending values without those that are closer than a factor to the one before: their geometric means."""
    groups: list[list[float]] = []
    for value in sorted(values.tolist()):
        if groups and value < groups[-1][0] * factor:
            groups[-1].append(value)
        else:
            groups.append([value])
    return [math.exp(sum(map(math.log, group)) / len(group)) for group in groups]
