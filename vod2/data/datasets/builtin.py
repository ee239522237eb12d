"""Registers the datasets that vod2 knows by name; importing it twice is harmless, and nothing is read.

They lie below the folder that the environment variable DETECTRON2_DATASETS names ("datasets" by default), real videos
perhaps below the one that VOD2_REAL_DIR names.
"""

import os

from vod2.coco import COCO_CLASSES, COCO_IDS
from vod2.d2 import DatasetCatalog, MetadataCatalog, register_coco_instances
from vod2.data.datasets.damaged import register_damaged
from vod2.data.datasets.derived import register_every_nth
from vod2.data.datasets.drones import DRONE_SENSORS, DRONE_SPLITS, drones_root, register_drones
from vod2.data.datasets.imagenet_det import register_imagenet_det
from vod2.data.datasets.imagenet_vid import register_imagenet_vid
from vod2.data.datasets.uavdt import register_uavdt
from vod2.data.datasets.vod_synth import VOD_SYNTH_PARTS, register_vod_synth
from vod2.data.synthetic import SYNTHETIC_CLASSES
from vod2.data.synthetic.vod_synth import SIZES
from vod2.package_files import command_line


def register_builtin_datasets(folder: str) -> None:
    """Register those of the builtin names that are not taken yet.

    `folder` holds ILSVRC2015, UAVDT, coco, synthetic, vod_synth_1_<size> for each size, and drones_<sensor>.
    """
    imagenet, synthetic = os.path.join(folder, "ILSVRC2015"), os.path.join(folder, "synthetic")
    # A name may be taken by whoever registered data of their own under it; the catalog refuses a second one.
    registered = set(DatasetCatalog.list())
    for name, split, every_frame in (
        ("imagenet_vid_train", "train", False),
        ("imagenet_vid_train_all", "train", True),
        ("imagenet_vid_val", "val", False),
    ):
        if name not in registered:
            register_imagenet_vid(name, imagenet, split, every_frame=every_frame)
            # As its published table of motions has it (vod2/evaluation/groups.py).
            MetadataCatalog.get(name).set(counts_empty_frames=split == "val")
    if "imagenet_det_train_30classes" not in registered:
        register_imagenet_det("imagenet_det_train_30classes", imagenet)
    for split in ("train", "test"):
        if f"uavdt_{split}" not in registered:
            register_uavdt(f"uavdt_{split}", os.path.join(folder, "UAVDT"), split)
    size = "--train-videos 200 --val-videos 40 --frames 60 --size 128x192 --classes 6"
    remedy = f"make it with {command_line('synthetic')} --output {synthetic} {size}"
    for split in ("train", "val"):
        if f"synthetic_{split}" not in registered:
            register_imagenet_vid(f"synthetic_{split}", synthetic, split, SYNTHETIC_CLASSES, remedy=remedy)
    for root in (f"vod_synth_1_{size}" for size in SIZES):
        for part in VOD_SYNTH_PARTS:
            if f"{root}_{part}" not in registered:
                register_vod_synth(f"{root}_{part}", os.path.join(folder, root), part, root.rpartition("_")[2])
    _register_coco(os.path.join(folder, "coco"), registered)
    _register_drones(folder, registered)


def _register_coco(folder: str, registered: set[str]) -> None:
    """The still images of COCO 2017, where the backend has not done so, as Detectron2 has: names, layout, metadata."""
    labels = {number: label for label, number in enumerate(COCO_IDS)}
    metadata = {"thing_classes": list(COCO_CLASSES), "thing_dataset_id_to_contiguous_id": labels}
    for split in ("train", "val"):
        name, annotations = f"coco_2017_{split}", os.path.join(folder, "annotations", f"instances_{split}2017.json")
        if name not in registered:
            register_coco_instances(name, metadata, annotations, os.path.join(folder, f"{split}2017"))


def _register_drones(folder: str, registered: set[str]) -> None:
    for sensor in DRONE_SENSORS:
        for split in DRONE_SPLITS:
            name, damaged = f"drones_{sensor}_{split}", f"drones_{sensor}_damaged_{split}"
            if name not in registered:
                register_drones(name, drones_root(folder, sensor), split)
            if damaged not in registered:
                register_damaged(damaged, name)
        for held_out in (f"drones_{sensor}_val", f"drones_{sensor}_damaged_val"):
            if f"{held_out}_every10" not in registered:
                register_every_nth(f"{held_out}_every10", held_out, 10)


register_builtin_datasets(os.environ.get("DETECTRON2_DATASETS", "datasets"))
