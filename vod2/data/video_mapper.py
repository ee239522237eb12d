"""From the dict of a frame to the clip that a model takes.

H, W: size of the augmented image. Boxes are xyxy in its pixels.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from vod2.d2 import CfgNode, Instances, configurable, detection_utils, transforms
from vod2.data.video_index import VideoIndex, frame_path
from vod2.errors import UserError
from vod2.temporal import SupportSchedule, TrainingSchedule, build_support_schedule, build_training_schedule


class VideoDatasetMapper:
    """Reads a frame and its supports. A mapper as Detectron2's loaders take it.

    Training. The schedule draws the supports; augmentation is drawn once and applied to all frames of the clip. A still
    image is a clip of itself repeated, and is read once. To the dict come:
        image: (3, H, W) uint8, in INPUT.FORMAT
        instances: gt_boxes, gt_classes, gt_track_ids ((n,) int64, -1 where unknown), without crowds and empty boxes
        support: list of {image, frame_index, role, and instances if the dataset has annotations of that frame}

    Inference. The dict says which frame of its video was evaluated before it: `previous_index` (None at the start, see
    `vod2.data.build_video_test_loader`). Only frames that the stream has not been sent yet are read:
        image: (3, H, W) uint8; absent if the frame was a support of an earlier one
        support: list of {image, frame_index, role None}, ascending

    `annotations` is taken out in both. A model without supports ignores them.

    Args:
        is_train: training or inference.
        augmentations: Detectron2's augmentations, applied in this order.
        image_format: such as "BGR".
        schedule: a TrainingSchedule in training, a SupportSchedule in inference.
        index: finds the other frames of datasets without `frame_template`, and the annotations of supports.

    Raises (when called):
        UserError: an image is missing, broken, or not of the annotated size; names the file.

    Example:
        >>> from vod2 import VideoDatasetMapper, add_video_config
        >>> from vod2.d2 import get_cfg
        >>> mapper = VideoDatasetMapper(add_video_config(get_cfg()), is_train=False)
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: list,
        image_format: str,
        schedule: TrainingSchedule | SupportSchedule,
        index: VideoIndex | None = None,
    ) -> None:
        self.is_train = is_train
        self.augmentations = transforms.AugmentationList(augmentations)
        self.image_format = image_format
        self.schedule = schedule
        self.index = index

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        if cfg.INPUT.CROP.ENABLED and is_train:
            augmentations.insert(0, transforms.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "schedule": build_training_schedule(cfg) if is_train else build_support_schedule(cfg),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        dataset_dict = copy.deepcopy(dataset_dict)
        return self._training_clip(dataset_dict) if self.is_train else self._new_frames(dataset_dict)

    def _training_clip(self, clip: dict) -> dict:
        # Detectron2's augmentations draw from numpy's global generator, so whoever wants the same clip again has to
        # seed that one (as `SeededDataset` does for each clip). The schedule's generator is drawn from it, too: the
        # mapper then has no state of its own that forked workers would share.
        rng = np.random.default_rng(np.random.randint(0, 2**32, size=4, dtype=np.uint32))
        key = clip["frame_index"]
        supports = self.schedule.sample(key, clip["video_length"], rng)
        augmented = transforms.AugInput(self._read(clip, key))
        drawn = self.augmentations(augmented)
        images = {key: _to_tensor(augmented.image)}
        for support in supports:
            if support.index not in images:
                images[support.index] = _to_tensor(drawn.apply_image(self._read(clip, support.index)))
        targets = {index: self._targets(clip, index, drawn, tuple(image.shape[1:])) for index, image in images.items()}
        clip["support"] = []
        for index, role in supports:
            support = {"image": images[index], "frame_index": index, "role": role}
            if targets[index] is not None:
                support["instances"] = targets[index]
            clip["support"].append(support)
        clip["image"] = images[key]
        if clip.pop("annotations", None) is not None:
            clip["instances"] = targets[key]
        return clip

    def _new_frames(self, clip: dict) -> dict:
        clip.pop("annotations", None)
        key = clip["frame_index"]
        clip["support"] = []
        for index in self.schedule.new(key, clip["video_length"], clip["video_id"], clip.get("previous_index")):
            augmented = transforms.AugInput(self._read(clip, index))
            self.augmentations(augmented)
            image = _to_tensor(augmented.image)
            if index == key:
                clip["image"] = image
            else:
                clip["support"].append({"image": image, "frame_index": index, "role": None})
        return clip

    def _read(self, clip: dict, index: int) -> np.ndarray:
        """Frame `index` of the clip's video, (h, w, 3) uint8 in original pixels."""
        path = frame_path(clip, index)
        if path is None:
            if self.index is None:
                raise ValueError(
                    f"frame {index} of video {clip['video_id']!r}: its dicts have no frame_template, so the mapper "
                    "needs to be built with index=VideoIndex(dicts)"
                )
            path = self.index.path(clip["video_id"], index)
        try:
            image = detection_utils.read_image(path, format=self.image_format)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such image, though its video has it: complete the dataset") from error
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, depending on where
            raise UserError(f"{path}: the image cannot be read ({error}): get the file again") from error
        height, width = image.shape[:2]
        if (width, height) != (clip["width"], clip["height"]):
            raise UserError(
                f"{path}: the image has {width} x {height} pixels, its annotation says {clip['width']} x "
                f"{clip['height']}: mend the one that is wrong"
            )
        return image

    def _targets(
        self, clip: dict, index: int, drawn: transforms.TransformList, size: tuple[int, int]
    ) -> Instances | None:
        """Ground truth of frame `index` in augmented pixels, None where the dataset has none."""
        record = clip
        if index != clip["frame_index"]:
            record = self.index.record(clip["video_id"], index) if self.index is not None else None
        if record is None or "annotations" not in record:
            return None
        return to_instances(record["annotations"], drawn, size)


def to_instances(annotations: list[dict], drawn: transforms.TransformList, size: tuple[int, int]) -> Instances:
    """Instances of the `annotations` after the transforms `drawn`, which made the image one of `size` (height, width).

    Returns:
        gt_boxes, gt_classes and gt_track_ids ((n,) int64, -1 where there is none); crowds and empty boxes are left out.
    """
    kept = [dict(annotation) for annotation in annotations if not annotation.get("iscrowd", 0)]
    for annotation in kept:
        annotation.pop("segmentation", None)
        annotation.pop("keypoints", None)
        detection_utils.transform_instance_annotations(annotation, drawn, size)
    instances = detection_utils.annotations_to_instances(kept, size)
    tracks = [annotation.get("track_id", -1) for annotation in kept]
    instances.gt_track_ids = torch.tensor(tracks, dtype=torch.int64)
    return detection_utils.filter_empty_instances(instances)


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, H, W)
