"""Boxes, images and instances: plain containers around tensors.

Letters: N boxes, M other boxes, B images, C channels, H W height and width. Boxes are xyxy in pixels, no +1.
"""

import math
from collections.abc import Iterator
from enum import IntEnum, unique
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou, clip_boxes_to_image

__all__ = ["BoxMode", "Boxes", "ImageList", "Instances", "pairwise_iou"]


@unique
class BoxMode(IntEnum):
    """How four numbers describe a box: corners or corner and size; pixels or fractions of the image."""

    # Detectron2's numbers: saved dataset dicts contain them
    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
        """A box (list or tuple of 4) or boxes (array or tensor, (N, 4) or (4,)) in the other absolute mode.

        The result has the type of `box`. Relative modes need the size of the image: NotImplementedError.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(f"BoxMode.convert from {from_mode!r} to {to_mode!r}: only absolute modes convert")
        is_sequence = isinstance(box, list | tuple)
        if is_sequence and len(box) != 4:
            raise ValueError(f"a box has 4 numbers, got {box!r}")
        # Python's floats are float64: float32 would change the digits of boxes read from JSON and written back
        source = np.asarray(box, dtype=np.float64) if is_sequence else box
        result: Any = source.clone() if isinstance(source, Tensor) else source.copy()
        result[..., 2:] += source[..., :2] * (1 if from_mode == BoxMode.XYWH_ABS else -1)
        return type(box)(result.tolist()) if is_sequence else result


class Boxes:
    """N boxes.

    Attributes:
        tensor (N, 4): xyxy in pixels. A float64 tensor stays float64; anything else becomes float32.
    """

    def __init__(self, tensor):
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(np.asarray(tensor), dtype=torch.float32)
        elif tensor.dtype != torch.float64:
            tensor = tensor.to(torch.float32)
        # No boxes in any shape: torch.tensor([]) has shape (0,)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            raise ValueError(f"Boxes expects shape (N, 4), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """(N,) square pixels."""
        return box_area(self.tensor)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit x to [0, width] and y to [0, height], in place; `box_size` is (height, width)."""
        # Clipping would turn infinite boxes into ordinary ones and hide that training has diverged
        if not torch.isfinite(self.tensor).all():
            raise ValueError("Boxes.clip: the boxes contain infinite values or NaN")
        self.tensor = clip_boxes_to_image(self.tensor, box_size)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) bool: both sides are longer than `threshold` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: float = 0) -> Tensor:
        """(N,) bool: the box leaves the image (height, width) by less than `boundary_threshold` pixels on each side."""
        starts_inside = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        limits = self.tensor.new_tensor([box_size[1], box_size[0]]) + boundary_threshold
        return starts_inside & (self.tensor[:, 2:] < limits).all(dim=1)

    def get_centers(self) -> Tensor:
        """(N, 2): x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item) -> "Boxes":
        """Index with an integer (gives one box), a slice, a mask or a vector of integers."""
        selected = self.tensor[item].view(1, -1) if isinstance(item, int) else self.tensor[item]
        if selected.dim() != 2:
            raise IndexError(f"indexing Boxes with {item} gives shape {tuple(selected.shape)}, expected (N, 4)")
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yields tensors of shape (4,)."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection over union in [0, 1]; 0 where the intersection is empty, also for boxes without area."""
    # 0 / 0 of two boxes without area
    return box_iou(boxes1.tensor, boxes2.tensor).nan_to_num(nan=0.0)


class ImageList:
    """Images of different sizes in one tensor, padded at the right and at the bottom.

    Attributes:
        tensor (B, C, H, W)
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    @staticmethod
    def from_tensors(tensors: list[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> "ImageList":
        """Pad images (C, H_i, W_i) to one size; height and width become multiples of `size_divisibility` (0: any)."""
        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        multiple = max(size_divisibility, 1)
        height, width = (math.ceil(max(sides) / multiple) * multiple for sides in zip(*image_sizes, strict=True))
        # Padded at the right and at the bottom only, so that box coordinates stay valid
        padded = [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=pad_value) for x in tensors]
        return ImageList(torch.stack(padded), image_sizes)

    def to(self, *args, **kwargs) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        """The image without its padding."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]


class Instances:
    """The instances of one image, as named fields of equal length.

    Fields are attributes: ``instances.gt_boxes = Boxes(...)`` sets one, ``instances.gt_boxes`` reads it. Indexing with
    a mask, a slice or a vector of integers indexes every field.

    Attributes:
        image_size: (height, width), pixels.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        # Names with an underscore are attributes of the object, all others are fields
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # "_fields" is missing while an object is being copied or unpickled
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field {name!r}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Raises AssertionError where the length differs from that of the other fields."""
        if self._fields and len(self) != len(value):
            raise AssertionError(f"field {name!r} has length {len(value)}, the other fields have {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        """The field; KeyError where there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Name -> value; changing this dict changes the instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Calls ``to`` of every field that has it."""
        fields = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **fields)

    def __getitem__(self, item) -> "Instances":
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is outside of {len(self)} instances")
            # A slice keeps every field a sequence; the slice of -1 must end with None, not 0
            item = slice(item, item + 1 or None)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        # Not 0: an image without instances has fields of length 0
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self):
        # Without this method Python would fall back to __getitem__
        raise NotImplementedError("Instances cannot be iterated over: index them, or iterate over a field")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Concatenate instances of images of one size; the fields are those of the first."""
        if not instance_lists or not all(isinstance(instances, Instances) for instances in instance_lists):
            raise AssertionError(f"Instances.cat expects a list of one or more Instances, got {instance_lists!r}")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if any(instances.image_size != first.image_size for instances in instance_lists):
            raise AssertionError(f"image sizes differ: {[instances.image_size for instances in instance_lists]}")
        fields = {name: _concatenate([i.get(name) for i in instance_lists]) for name in first.get_fields()}
        return Instances(first.image_size, **fields)

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        count = len(self) if self._fields else 0
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"


def _concatenate(values: list) -> Any:
    kind = type(values[0])
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if kind is list:
        return list(chain(*values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"a field of type {kind.__name__} cannot be concatenated: it has no cat")
