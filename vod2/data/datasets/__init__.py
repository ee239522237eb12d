"""Datasets of videos; the builtin names are registered on import."""

from vod2.data.datasets import builtin as _builtin  # noqa: F401  (registers)
from vod2.data.datasets.bdd import BDD_CLASSES, load_bdd, register_bdd
from vod2.data.datasets.coco_video import load_coco_video, register_coco_video
from vod2.data.datasets.common import BoxCheck, VideoDataset, annotation_dict, fields_of, register_dataset
from vod2.data.datasets.cvat import load_cvat, register_cvat
from vod2.data.datasets.derived import register_derived, register_every_nth
from vod2.data.datasets.det_selection import limit_images_per_class
from vod2.data.datasets.drones import DRONE_CLASSES, load_drones, register_drones
from vod2.data.datasets.epic import load_epic, register_epic
from vod2.data.datasets.faults import Fault, Place, Report, number, refuse, whole
from vod2.data.datasets.ilsvrc import VID_CLASSES, VID_WNIDS
from vod2.data.datasets.imagenet_det import load_imagenet_det, register_imagenet_det
from vod2.data.datasets.imagenet_vid import load_imagenet_vid, register_imagenet_vid
from vod2.data.datasets.images import image_size
from vod2.data.datasets.label_studio import load_label_studio, register_label_studio
from vod2.data.datasets.mot import MOT17_CLASSES, load_mot, register_mot
from vod2.data.datasets.uavdt import UAVDT_CLASSES, UAVDT_SEQUENCES, load_uavdt, register_uavdt
from vod2.data.datasets.visdrone import VISDRONE_CLASSES, load_visdrone, register_visdrone
from vod2.data.datasets.yolo import load_yolo_video, register_yolo_video

__all__ = [
    "BDD_CLASSES",
    "DRONE_CLASSES",
    "MOT17_CLASSES",
    "UAVDT_CLASSES",
    "UAVDT_SEQUENCES",
    "VID_CLASSES",
    "VID_WNIDS",
    "VISDRONE_CLASSES",
    "VideoDataset",
    "limit_images_per_class",
    "load_bdd",
    "load_coco_video",
    "load_cvat",
    "load_drones",
    "load_epic",
    "load_imagenet_det",
    "load_imagenet_vid",
    "load_label_studio",
    "load_mot",
    "load_uavdt",
    "load_visdrone",
    "load_yolo_video",
    "register_bdd",
    "register_coco_video",
    "register_cvat",
    "register_derived",
    "register_drones",
    "register_epic",
    "register_every_nth",
    "register_imagenet_det",
    "register_imagenet_vid",
    "register_label_studio",
    "register_mot",
    "register_uavdt",
    "register_visdrone",
    "register_yolo_video",
    "BoxCheck",
    "annotation_dict",
    "fields_of",
    "register_dataset",
    "Fault",
    "Place",
    "Report",
    "number",
    "refuse",
    "whole",
    "image_size",
]
