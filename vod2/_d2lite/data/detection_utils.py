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
            image = ImageOps.exif_transpose(Image.open(f))
            return convert_PIL_to_numpy(image, format)
        except (OSError, SyntaxError, ValueError) as error:
            raise OSError(f"cannot read the image {file_name} as {format or 'it is'}: {error}") from error


def convert_PIL_to_numpy(image, format):
    """A PIL image as an (H, W, C) array in `format`, see `read_image`."""
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    image = np.asarray(image)
    if format == "BGR":
        return image[:, :, ::-1]
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
    expected = dataset_dict.get("width", width), dataset_dict.get("height", height)
    if (width, height) != expected:
        raise SizeMismatchError(
            f"Mismatched image shape for image {dataset_dict.get('file_name', '(no file_name)')}, "
            f"got {(width, height)}, expect {expected} (width, height). Check the width/height in the annotations."
        )
    dataset_dict["width"], dataset_dict["height"] = expected


def transform_instance_annotations(annotation, transforms, image_size):
    """Transforms the box (and polygons) of one annotation dict in place, and returns it.

    Args:
        annotation: with bbox and bbox_mode; the box comes out as XYXY_ABS, clipped to the image.
        transforms: a transform or a list of them.
        image_size: (height, width) of the image after `transforms`.

    Raises:
        NotImplementedError: the annotation has keypoints or a segmentation that is not a list of polygons.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    height, width = image_size
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "keypoints" in annotation or isinstance(annotation.get("segmentation"), dict):
        raise NotImplementedError("keypoints and RLE masks need Detectron2 itself: pop them from the annotation first")
    if "segmentation" in annotation:
        polygons = [np.asarray(p).reshape(-1, 2) for p in annotation["segmentation"]]
        annotation["segmentation"] = [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
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
    if is_train:
        min_size, max_size = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
        sample_style = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    else:
        min_size, max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        sample_style = "choice"
    augmentations = [T.ResizeShortestEdge(min_size, max_size, sample_style)]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ValueError(f"INPUT.RANDOM_FLIP is {flip!r}, expected 'none', 'horizontal' or 'vertical'")
    if is_train and flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentations
