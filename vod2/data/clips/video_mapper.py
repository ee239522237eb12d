"""From the dict of a frame to the clip that a model takes.

H, W: size of the augmented image. Boxes are xyxy in its pixels.
"""

import copy
from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vod2.d2 import BoxMode, CfgNode, Instances, configurable, detection_utils, transforms
from vod2.data.clips.augmentation import build_video_augmentation, kept_by_centre
from vod2.data.clips.bad_frames import BadFrames
from vod2.data.clips.frames import ClipReader
from vod2.data.clips.resizing import build_augmentation
from vod2.data.datasets.video_index import VideoIndex
from vod2.structures import Role
from vod2.temporal import SupportSchedule, TrainingSchedule, build_support_schedule, build_training_schedule


class VideoDatasetMapper:
    """Reads a frame and its supports. A mapper as Detectron2's loaders take it.

    Training. The schedule draws the supports; augmentation is drawn once, from the key frame and its boxes, and applied
    to all frames of the clip. A still image is a clip of itself repeated, and is read once. To the dict come:
        image: (3, H, W) uint8, in INPUT.FORMAT
        instances: gt_boxes, gt_classes, gt_track_ids ((n,) int64, -1 where unknown), without crowds, empty boxes and
            what a crop has taken out (see `to_instances`)
        ignore_regions: (G, 4) float32, where the key frame has any: those of its dict, and its crowds
        support: list of {image, frame_index, role, and instances if the index knows annotations of that frame, see
            `VideoIndex.annotations`}; the one of role KEY stands for the key frame itself and has neither image nor
            instances

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
        on_bad_frame, max_bad_frames: "error" or "skip", and how many to skip; see `BadFrames`.

    Raises (when called):
        UserError: an image is missing, broken, or not of the annotated size; names the file. With "skip": there are
            too many of them.

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
        on_bad_frame: str = "error",
        max_bad_frames: int = 0,
    ) -> None:
        self.is_train = is_train
        self.augmentations = transforms.AugmentationList(augmentations)
        self.image_format = image_format
        self.schedule = schedule
        self.index = index
        self.bad_frames = BadFrames(on_bad_frame, max_bad_frames, index)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        augmentations = build_augmentation(cfg, is_train)
        if cfg.INPUT.CROP.ENABLED and is_train:
            # Before resizing, as in Detectron2's mapper.
            augmentations.insert(0, transforms.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if is_train:
            augmentations = build_video_augmentation(cfg) + augmentations
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "schedule": build_training_schedule(cfg) if is_train else build_support_schedule(cfg),
            "on_bad_frame": cfg.DATASETS.ON_BAD_FRAME,
            "max_bad_frames": cfg.DATASETS.MAX_BAD_FRAMES,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        # The dict belongs to the dataset, and what follows changes it.
        dataset_dict = copy.deepcopy(dataset_dict)
        return self._training_clip(dataset_dict) if self.is_train else self._new_frames(dataset_dict)

    def _training_clip(self, clip: dict) -> dict:
        # Detectron2's augmentations draw from numpy's global generator, so whoever wants the same clip again has to
        # seed that one (as `SeededDataset` does for each clip). The schedule's generator is drawn from it, too: the
        # mapper then has no state of its own that forked workers would share.
        rng = np.random.default_rng(np.random.randint(0, 2**32, size=4, dtype=np.uint32))
        schedule = cast(TrainingSchedule, self.schedule)
        supports = schedule.sample(clip["frame_index"], clip["video_length"], rng)
        read = self._reader(clip, [clip["frame_index"], *(support.index for support in supports)])
        drawn_for = clip
        clip, image = self.bad_frames.read_key(read, clip, rng)
        if clip is not drawn_for:  # another frame stands in for the key frame
            supports = schedule.sample(clip["frame_index"], clip["video_length"], rng)
        key = clip["frame_index"]

        # What is drawn for the key frame is done to all frames.
        augmented = transforms.AugInput(image, boxes=_boxes(_objects(clip.get("annotations") or [])))
        drawn = self.augmentations(augmented)

        # Every frame is read and augmented once, however often the schedule names it.
        images = {key: to_tensor(augmented.image)}
        read_instead = {key: key}  # {frame that the schedule drew: the one that was read, which may stand in for it}
        for support in supports:
            if support.index not in read_instead:
                index, image = self.bad_frames.read(read, clip, support.index, rng)
                read_instead[support.index] = index
                images[index] = to_tensor(drawn.apply_image(image))
        targets = {}
        for index, tensor in images.items():
            targets[index] = self._targets(clip, index, drawn, (tensor.shape[1], tensor.shape[2]))

        clip["support"] = []
        for drawn_index, role in supports:
            if role is Role.KEY:
                clip["support"].append({"frame_index": key, "role": role})
                continue
            index = read_instead[drawn_index]
            entry = {"image": images[index], "frame_index": index, "role": role}
            if targets[index] is not None:
                entry["instances"] = targets[index]
            clip["support"].append(entry)

        clip["image"] = images[key]
        regions = to_ignore_regions(clip, drawn, (images[key].shape[1], images[key].shape[2]))
        # Those of the dict are in pixels of the file; a clip without regions has no key.
        clip.pop("ignore_regions", None)
        if len(regions):
            clip["ignore_regions"] = regions
        if clip.pop("annotations", None) is not None:
            clip["instances"] = targets[key]
        return clip

    def _new_frames(self, clip: dict) -> dict:
        clip.pop("annotations", None)
        key = clip["frame_index"]
        clip["support"] = []
        schedule = cast(SupportSchedule, self.schedule)
        indices = list(schedule.new(key, clip["video_length"], clip["video_id"], clip.get("previous_index")))
        read = self._reader(clip, indices)
        for index in indices:
            image = to_tensor(self._resized(read, clip, index))
            if index == key:
                clip["image"] = image
            else:
                clip["support"].append({"image": image, "frame_index": index, "role": None})
        return clip

    def _resized(self, read: ClipReader, clip: dict, index: int) -> np.ndarray:
        """Frame `index` of the clip's video, or what stands in for it, as the model sees it: (H, W, C)."""
        _, image = self.bad_frames.read(read, clip, index)
        # Resizing alone: nothing is drawn in inference.
        augmented = transforms.AugInput(image)
        self.augmentations(augmented)
        return augmented.image

    def _reader(self, clip: dict, indices: Iterable[int]) -> ClipReader:
        return ClipReader(clip, indices, self.index, self.image_format)

    def _targets(
        self, clip: dict, index: int, drawn: transforms.TransformList, size: tuple[int, int]
    ) -> Instances | None:
        """Ground truth of frame `index` in augmented pixels, None where the dataset has none."""
        if index == clip["frame_index"]:
            annotations = clip.get("annotations")
        elif self.index is not None:
            annotations = self.index.annotations(clip["video_id"], index)
        else:
            annotations = None
        return None if annotations is None else to_instances(annotations, drawn, size)


def to_instances(annotations: list[dict], drawn: transforms.TransformList, size: tuple[int, int]) -> Instances:
    """Instances of the `annotations` after the transforms `drawn`, which made the image one of `size` (height, width).

    Returns:
        gt_boxes, gt_classes and gt_track_ids ((n,) int64, -1 where there is none); crowds and empty boxes are left out,
        and objects whose centre is outside of a `CentreCropTransform`.
    """
    objects = _objects(annotations)
    inside = kept_by_centre(drawn, _boxes(objects))
    kept = []
    for annotation, is_inside in zip(objects, inside, strict=True):
        if not is_inside:
            continue
        annotation = dict(annotation)  # the index keeps the original
        # Nothing is trained on masks and keypoints: they need not be transformed.
        annotation.pop("segmentation", None)
        annotation.pop("keypoints", None)
        detection_utils.transform_instance_annotations(annotation, drawn, size)
        kept.append(annotation)
    instances = detection_utils.annotations_to_instances(kept, size)
    tracks = [-1 if annotation.get("track_id") is None else max(annotation["track_id"], -1) for annotation in kept]
    instances.gt_track_ids = torch.tensor(tracks, dtype=torch.int64)
    return detection_utils.filter_empty_instances(instances)


def to_ignore_regions(record: dict, drawn: transforms.TransformList, size: tuple[int, int]) -> Tensor:
    """What a frame does not annotate object by object, after the transforms `drawn`: its `ignore_regions` and crowds.

    Args:
        record: video dataset dict; `ignore_regions` are [[x1, y1, x2, y2]] in pixels, `annotations` may have crowds.
        drawn: what made the image one of `size` (height, width).

    Returns:
        (G, 4) float32 xyxy, clipped to the image; regions without area are left out.
    """
    # A crowd is many objects in one box: neither one object nor background.
    crowds = [annotation for annotation in record.get("annotations") or [] if annotation.get("iscrowd", 0)]
    annotated = np.array(record.get("ignore_regions") or [], dtype=np.float64).reshape(-1, 4)
    boxes = drawn.apply_box(np.concatenate([annotated, _boxes(crowds)])).reshape(-1, 4)
    height, width = size
    boxes = boxes.clip(0, [width, height, width, height])
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return torch.from_numpy(boxes[has_area]).float()


def _objects(annotations: list[dict]) -> list[dict]:
    return [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]


def _boxes(annotations: list[dict]) -> np.ndarray:
    """(n, 4) float64 xyxy."""
    boxes = []
    for annotation in annotations:
        boxes.append(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) uint8 -> (C, H, W) uint8."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
