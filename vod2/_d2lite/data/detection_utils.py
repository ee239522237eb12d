"""What mappers are made of: reading images, transforming annotations, building augmentations."""

import numpy as np
import torch
from PIL import Image, ImageOps

from vod2._d2lite.structures import Boxes, BoxMode, Instances
from vod2._d2lite.utils.file_io import PathManager

from . import transforms as T


class SizeMismatchError(ValueError):
    """The image on disk is not of the size that its dataset dict says."""


def read_image(file_name, format=None):
    """Reads an image, turned upright as its EXIF orientation says.

    Args:
        file_name: path of the image.
        format: a mode of PIL ("RGB", "L", ...), "BGR", or None for the mode of the file.

    Returns:
        (H, W, C) uint8 array in [0, 255]; C = 1 for "L".

    Raises:
        OSError: the file is missing or is not an intact image; the message names it.
    """
    with PathManager.open(file_name, "rb") as f:
        try:
            upright = ImageOps.exif_transpose(Image.open(f))
            image = np.asarray(upright if format is None else upright.convert("RGB" if format == "BGR" else format))
        # PIL raises a SyntaxError for a broken PNG
        except (OSError, SyntaxError, ValueError) as error:
            raise OSError(f"cannot read the image {file_name} as {format or 'it is'}: {error}") from error
    if format == "BGR":
        return image[:, :, ::-1]
    # PIL gives gray images without a channel axis
    return image[:, :, None] if format == "L" else image


def convert_image_to_rgb(image, format):
    """An (H, W, C) image (array or tensor, values in [0, 255]) in "BGR", "RGB" or "L" as a uint8 (H, W, 3) array."""
    image = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format not in ("BGR", "RGB", "L"):
        raise ValueError(f"expected the format 'BGR', 'RGB' or 'L', got {format!r}")
    image = image.astype(np.uint8)
    if format == "L":
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, ::-1] if format == "BGR" else image)


def check_image_size(dataset_dict, image):
    """Compares the (H, W, C) image with "width" and "height" of its dict, and adds them where they are missing.

    Raises:
        SizeMismatchError: they differ.
    """
    height, width = image.shape[:2]
    expected = dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height)
    if (width, height) != expected:
        raise SizeMismatchError(
            f"Mismatched image shape for image {dataset_dict.get('file_name', '(no file_name)')}, "
            f"got {(width, height)}, expect {expected} (width, height). Check the width/height in the annotations."
        )


def transform_instance_annotations(annotation, transforms, image_size):
    """Transforms the box of one annotation dict in place, and returns it; masks and keypoints are dropped.

    Args:
        annotation: with bbox and bbox_mode; the box comes out as XYXY_ABS, clipped to the image.
        transforms: a transform or a list of them.
        image_size: (height, width) of the image after `transforms`.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    # A box outside the crop becomes empty here; `filter_empty_instances` then drops it
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    height, width = image_size
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    # They would no longer fit the transformed image
    for key in ("segmentation", "keypoints"):
        annotation.pop(key, None)
    return annotation


def annotations_to_instances(annos, image_size):
    """Annotation dicts as `Instances` with gt_boxes (N, 4) XYXY_ABS float32 and gt_classes (N,) int64.

    Args:
        annos: list of dicts with bbox, bbox_mode and category_id; may be empty.
        image_size: (height, width).
    """
    boxes = [BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS) for ann in annos]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(np.asarray(boxes, dtype=np.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor([int(ann["category_id"]) for ann in annos], dtype=torch.int64)
    return instances


def filter_empty_instances(instances, by_box=True, box_threshold=1e-5, return_mask=False):
    """The instances whose gt_boxes are wider and higher than `box_threshold` (where `by_box`).

    With `return_mask`, also the (N,) bool tensor of what was kept.
    """
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep = instances.gt_boxes.nonempty(threshold=box_threshold)
    return (instances[keep], keep) if return_mask else instances[keep]


def build_augmentation(cfg, is_train):
    """The list of augmentations of cfg.INPUT: the resize, and in training the flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ValueError(f"INPUT.RANDOM_FLIP is {flip!r}, expected 'none', 'horizontal' or 'vertical'")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augmentations: list[T.Augmentation] = [T.ResizeShortestEdge(*sizes)]
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentations
