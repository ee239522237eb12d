"""Trains a detector in two processes that hold different kinds of clip; run as `python -m helpers.two_processes`.

Arguments: the folder for what they find, and the names of METHODS.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from helpers.models import LSTS_KEYS, RFCN_KEYS, build_detector, make_targets, make_video, tiny_cfg
from vod2.d2 import EventStorage
from vod2.structures import Role
from vod2.temporal import build_training_schedule

STEPS, LENGTH = 5, 40
LSTS = LSTS_KEYS | {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator",
    "VIDEO.TRAIN_SCHEDULE.NAME": "KeyframeTriplet",
}
METHODS = {
    "LSTS": LSTS,
    "LSTS on R-FCN": LSTS | RFCN_KEYS | {"MODEL.LSTS.STAGE": "head_map"},
    "DFF": {
        "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator",
        "MODEL.FLOWNET.WIDTH": 0.03,
        "VIDEO.TRAIN_SCHEDULE.NAME": "RandomKeyframe",
    },
    "MST": {
        "MODEL.ALIGNER.NAME": "DAlign",
        "MODEL.ALIGNER.WIDTH": 4,
        "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "MSTFrames",
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator",
        "VIDEO.TRAIN_SCHEDULE.NAME": "RandomNear",
    },
    "RDN without supports": {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
        "VIDEO.TRAIN_SCHEDULE.NAME": "NoSupport",
    },
}


def clip_of(keys: dict, video: list[torch.Tensor], t: int, seed: int) -> dict:
    """Frame t with the supports that the method's schedule draws."""
    supports = build_training_schedule(tiny_cfg(keys)).sample(t, len(video), np.random.default_rng(seed))
    clip = {"image": video[t], "video_id": "video", "frame_index": t, "instances": make_targets(), "support": []}
    for index, role in supports:
        image = {} if role is Role.KEY else {"image": video[index]}
        clip["support"].append({"frame_index": index, "role": role} | image)
    return clip


def train(method: str, rank: int) -> dict[str, torch.Tensor]:
    """The parameters after a few steps: process 0 trains on a still image, process 1 on clips of a video."""
    keys = METHODS[method]
    model = build_detector(keys).train()
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.001, momentum=0.9, weight_decay=0.01)
    video = make_video(1 if rank == 0 else LENGTH, seed=rank)
    for step in range(STEPS):
        torch.manual_seed(10 * step + rank)
        # Frames after the first keyframe, so that a keyframe method has both of its keyframes.
        clip = clip_of(keys, video, t=0 if rank == 0 else LENGTH - 1 - step, seed=step)
        with EventStorage():
            losses = parallel([clip])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def work(rank: int, folder: str, methods: list[str]) -> None:
    torch.set_num_threads(1)
    rendezvous = (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    torch.save({method: train(method, rank) for method in methods}, Path(folder) / f"{rank}.pth")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(sys.argv[1], sys.argv[2:]), nprocs=2)
