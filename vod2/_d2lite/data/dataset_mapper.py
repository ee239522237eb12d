"""From a dataset dict to what a model takes."""

import copy
import logging

import numpy as np
import torch

from vod2._d2lite.config import configurable

from . import detection_utils as utils
from . import transforms as T


class DatasetMapper:
    """Reads the image of a dataset dict, augments it with its annotations, and gives

    - image: (C, H, W) tensor of the image's dtype (uint8), in `image_format`;
    - instances (training only, where there are annotations): gt_boxes, gt_classes, without crowds and empty boxes;
    - height, width and the other keys of the dict as they are.

    Args:
        is_train: keep the annotations.
        augmentations: augmentations or transforms, applied in this order.
        image_format: of `detection_utils.read_image`, such as "BGR".
    """

    @configurable
    def __init__(self, is_train, *, augmentations, image_format):
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info("Augmentations used in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg, is_train=True):
        augmentations = utils.build_augmentation(cfg, is_train)
        if cfg.INPUT.CROP.ENABLED and is_train:
            # Before the resize: absolute crop sizes are pixels of the original image
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {"is_train": is_train, "augmentations": augmentations, "image_format": cfg.INPUT.FORMAT}

    def __call__(self, dataset_dict):
        # Annotations are changed in place below, and an unserialized dataset hands out its own dicts
        dataset_dict = copy.deepcopy(dataset_dict)
        aug_input = T.AugInput(utils.read_image(dataset_dict["file_name"], format=self.image_format))
        utils.check_image_size(dataset_dict, aug_input.image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        # A BGR image is a view with negative strides, which torch does not support
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        # In inference, too: the model must not see them
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            annos = [ann for ann in annotations if ann.get("iscrowd", 0) == 0]
            annos = [utils.transform_instance_annotations(ann, transforms, image.shape[:2]) for ann in annos]
            instances = utils.annotations_to_instances(annos, image.shape[:2])
            dataset_dict["instances"] = utils.filter_empty_instances(instances)
        return dataset_dict
