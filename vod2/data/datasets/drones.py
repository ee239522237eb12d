"""The Drone Detection Dataset (Svanström, Englund, Alonso-Fernandez, ICPR 2020; CC0): infrared and visible clips of
airplanes, birds, drones and helicopters, which look alike from afar.

<root>/train.json.gz, val.json.gz      written by datasets/prepare_drones.py; COCO-style video JSON
<root>/videos/IR_DRONE_001.mp4 ...     a folder, or a link to the clone's
"""

import os
from pathlib import Path

from vod2.data.datasets.coco_video import load_coco_video
from vod2.data.datasets.common import VideoDataset, register_dataset
from vod2.data.datasets.frame_annotations import LoadedAnnotations
from vod2.errors import UserError

DRONE_CLASSES = ("airplane", "bird", "drone", "helicopter")
DRONE_SENSORS = {"ir": "IR", "visible": "V"}
"""Sensor, as in the names of datasets -> what the names of its clips begin with."""
DRONE_SPLITS = ("train", "val")
_GROUP_KEY = "distance"


def register_drones(name: str, root: str | os.PathLike, split: str) -> None:
    """Register the dataset `name`; nothing is read before it is used.

    Its metadata has `linked_identities` True: tracks were linked by `vod2.data.datasets.track_linking`, not annotated.

    Args:
        name: in the DatasetCatalog.
        root, split: see `load_drones`.
    """
    source = _source(root, split)
    register_dataset(
        name,
        lambda: load_drones(root, split),
        DRONE_CLASSES,
        image_root=str(root),
        linked_identities=True,
        frame_annotations=LoadedAnnotations(load_drones, {"root": root, "split": split}),
        # The check of this format calls the file `path`.
        check_source={"format": "coco_video", "path": source.pop("json_file"), **source},
    )


def load_drones(root: str | os.PathLike, split: str) -> VideoDataset:
    """Read one split, frames from video files.

    Args:
        root: folder of one sensor, see the module.
        split: "train" or "val".

    Returns:
        As `load_coco_video`. `groups` of a frame is the published distance of its clip: "close", "medium" or "distant".

    Raises:
        UserError: the split has not been prepared, or its file is broken.
    """
    source = _source(root, split)
    if not os.path.isfile(source["json_file"]):
        raise UserError(
            f"{source['json_file']}: no such file: make it with python datasets/prepare_drones.py CLONE "
            f"--output {Path(root).parent}"
        )
    return load_coco_video(**source)


def drones_root(folder: str, sensor: str) -> str:
    """Where the data of a sensor is: <VOD2_REAL_DIR>/drones_<sensor> if it is there, or else below `folder`."""
    name = f"drones_{sensor}"
    real = os.environ.get("VOD2_REAL_DIR")
    return os.path.join(real if real and os.path.isdir(os.path.join(real, name)) else folder, name)


def _source(root: str | os.PathLike, split: str) -> dict:
    """Arguments of `load_coco_video`."""
    return {
        "json_file": os.path.join(root, f"{split}.json.gz"),
        "class_names": DRONE_CLASSES,
        "video_root": os.path.join(root, "videos"),
        "group_keys": (_GROUP_KEY,),
    }
