"""Short trainings whose gradients are kept, in one process that accumulates or in several that do not."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.models import tiny_cfg
from vod2.d2 import BoxMode, CfgNode, DatasetCatalog, HookBase, MetadataCatalog, comm, launch
from vod2.engine import VideoTrainer
from vod2.engine.random_weights import draw_weights

NAME = "accumulation_videos"
UPDATES = 2

BASE = {
    "DATASETS.TRAIN": (NAME,),
    "DATASETS.TEST": (),
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "MODEL.WEIGHTS": "",
    "SEED": 3,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.MAX_ITER": UPDATES,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.STEPS": (),
    "VIDEO.TRAIN_SCHEDULE.NAME": "RandomNear",
    "VIDEO.TRAIN_SCHEDULE.COUNT": 1,
}
CASES = {
    "relations, OHEM and clipped gradients": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
        "MODEL.VIDEO.OHEM": 8,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
    },
    "triplets of videos": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "HVRAggregator",
        "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
        "MODEL.HVRNET.NUM_INTER": 1,
        "DATALOADER.SAMPLER_TRAIN": "TripletVideos",
        "DATALOADER.TRIPLET.NUM_CLASSES": 2,
        "DATALOADER.TRIPLET.NUM_VIDEOS": 2,
        "VIDEO.TRAIN_SCHEDULE.NAME": "RandomVideo",
        "SOLVER.IMS_PER_BATCH": 8,
    },
}
"""Each is made of NAME's videos; IMS_PER_BATCH is that of two devices."""


def register_videos(folder: Path) -> None:
    """Four wide and four upright videos of three frames of noise, with a box each, of two classes."""
    rng = np.random.default_rng(0)
    dicts = []
    for video in range(8):
        height, width = (64, 96) if video % 3 else (96, 64)
        for index in range(3):
            file = folder / f"{video}_{index}.png"
            coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            if not file.exists():  # by the process that started this one
                Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(file)
            left = 4.0 + 3 * index + video
            box = {"bbox": [left, 6.0, left + 30, 44.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": video // 4}
            record = {"file_name": str(file), "image_id": f"{video}/{index}", "height": height, "width": width}
            record |= {"video_id": f"v{video}", "frame_index": index, "video_length": 3}
            dicts.append(record | {"annotations": [box | {"iscrowd": 0, "track_id": 0}]})
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(thing_classes=["elf", "gnome"])


@contextmanager
def registered_videos(folder: Path) -> Iterator[None]:
    """`register_videos` for as long as it lasts."""
    register_videos(folder)
    try:
        yield
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def config(folder: Path, keys: dict) -> CfgNode:
    return tiny_cfg({"MODEL.DEVICE": "cpu"} | BASE | {"OUTPUT_DIR": str(folder / "output")} | keys)


class _Recorder(HookBase):
    """Keeps what every update was made of: the clips of this process, and the gradient."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def after_step(self) -> None:
        model = getattr(self.trainer.model, "module", self.trainer.model)
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def _seed_by_clips(_, inputs: tuple) -> None:
    """What the model draws (anchors and RoIs to sample) then depends on the clips alone, not on the process."""
    torch.manual_seed(sum(int(clip["image"].long().sum()) for clip in inputs[0]))


def train(cfg: CfgNode) -> dict:
    """The gradients of each update, the weights afterwards, and the losses of the last update."""
    trainer = VideoTrainer(cfg)
    model = getattr(trainer.model, "module", trainer.model)
    draw_weights(model, 0)
    model.register_forward_pre_hook(_seed_by_clips)
    recorder = _Recorder()
    trainer.register_hooks([recorder])
    trainer.train()
    return {
        "gradients": recorder.gradients,
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "losses": {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name},
    }


def train_all(folder: Path, keys: dict) -> dict[str, dict]:
    """Every case with `keys` on top."""
    with registered_videos(folder):
        return {name: train(config(folder, case | keys)) for name, case in CASES.items()}


def _work(folder: str) -> None:
    torch.set_num_threads(1)
    found = train_all(Path(folder), {})
    if comm.is_main_process():
        torch.save(found, Path(folder, "found.pt"))


if __name__ == "__main__":
    register_videos(Path(sys.argv[1]))
    launch(_work, json.loads(sys.argv[2]), dist_url="auto", args=(sys.argv[1],))
