"""What several processes do in tests of `launch_processes`.

Run as `python -m helpers.launched WHAT FOLDER PROCESSES`.
"""

import argparse
import json
import logging
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist

from helpers import accumulation
from vod2.d2 import DatasetCatalog, HookBase, MetadataCatalog, comm
from vod2.engine import VideoTrainer, cli
from vod2.engine.launch import launch_processes
from vod2.engine.trainer import share_buffers
from vod2.errors import UserError

STEPS = 20
WIDE = "wide_videos"


class Losses(HookBase):
    """The mean total loss of each update, in the first process."""

    def __init__(self):
        self.totals = []

    def after_step(self):
        if comm.is_main_process():
            self.totals.append(self.trainer.storage.latest()["total_loss"][0])


def mistake(folder: Path) -> None:
    if comm.get_rank() == 1:
        raise UserError("the second process has no data: give it some")
    comm.synchronize()  # for ever


def bug(folder: Path) -> None:
    if comm.get_rank() == 1:
        raise RuntimeError("a bug of the second process")
    comm.synchronize()


def killed(folder: Path) -> None:
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def count(folder: Path) -> None:
    """How many processes there are, and that they reach each other."""
    ranks = comm.all_gather(comm.get_rank())
    (folder / f"rank{comm.get_rank()}_{os.getpid()}.json").write_text(json.dumps(ranks))


def buffers(folder: Path) -> None:
    """Running statistics that differ by process, before an evaluation."""
    layer = torch.nn.BatchNorm2d(3)
    layer.running_mean.fill_(comm.get_rank() + 1)
    layer.num_batches_tracked.fill_(comm.get_rank() + 7)
    share_buffers(layer)
    found = [layer.running_mean.tolist(), int(layer.num_batches_tracked)]
    (folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(found))


def training(folder: Path, keys: dict | None = None) -> None:
    accumulation.register_videos(folder)
    # Of one size: a map at the edge of an image depends on how far its batch is padded.
    wide = [record for record in DatasetCatalog.get(accumulation.NAME) if record["width"] > record["height"]]
    DatasetCatalog.register(WIDE, lambda: wide)
    MetadataCatalog.get(WIDE).set(thing_classes=["elf", "gnome"])
    steady = {
        "DATASETS.TRAIN": (WIDE,),
        "DATALOADER.ASPECT_RATIO_GROUPING": False,  # else groups are of the clips of a process
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
        "MODEL.RESNETS.NORM": "FrozenBN",
        "SOLVER.MAX_ITER": STEPS,
        "SOLVER.CHECKPOINT_PERIOD": 1000,
        "SOLVER.BASE_LR": 0.001,
    }
    torch.manual_seed(0)  # initial weights: drawn ones are far from any minimum, where rounding grows fast
    trainer = VideoTrainer(accumulation.config(folder, steady | (keys or {})))
    losses = Losses()
    trainer.register_hooks([losses])
    trainer.train()
    if comm.is_main_process():
        (folder / "losses.json").write_text(json.dumps(losses.totals))


def endless(folder: Path) -> None:
    """A training that is to be interrupted; says when it has begun."""
    logging.getLogger("vod2").setLevel(logging.ERROR)

    class Begun(HookBase):
        def after_step(self):
            if self.trainer.iter == 1 and comm.is_main_process():
                (folder / "begun").touch()

    accumulation.register_videos(folder)
    trainer = VideoTrainer(accumulation.config(folder, {"SOLVER.MAX_ITER": 100_000, "SOLVER.CHECKPOINT_PERIOD": 10**6}))
    trainer.register_hooks([Begun()])
    trainer.train()


def work(cfg: Path, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    assert comm.get_world_size() == 1 or dist.is_initialized()
    {function.__name__: function for function in (mistake, bug, killed, count, buffers, training, endless)}[args.what](
        cfg
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("folder", type=Path)
    parser.add_argument("processes", type=int)
    args = parser.parse_args()
    args.num_gpus, args.num_machines, args.machine_rank, args.dist_url = args.processes, 1, 0, "auto"
    launch_processes(work, args.folder, args)


if __name__ == "__main__":
    cli.run(main)
