"""A short training that may kill itself in the middle of writing a file.

Run as `python -m helpers.killed_training FOLDER --workers N [--at FLUSH] [--slow SECONDS] [--largest BYTES]`; it always
resumes. FLUSH counts the times that a file or a folder is forced to the disk: the file that is being written is cut in
half first. BYTES is the largest file that can be written, as on a disk that is full.
"""

import argparse
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from helpers import accumulation
from helpers.full_disk import largest_file
from vod2 import atomic
from vod2.d2 import HookBase
from vod2.engine import VideoTrainer, cli

KEYS = {
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator",
    "SOLVER.MAX_ITER": 8,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.BASE_LR": 1e-3,
    "TEST.EVAL_PERIOD": 0,
}
FLUSHES = 6  # of a checkpoint: three files and their folder, the file that names it and the folder again


class Slow(HookBase):
    """Makes iterations long enough to be killed in."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def after_step(self) -> None:
        time.sleep(self._seconds)


def kill_at(number: int) -> None:
    """Let the `number`-th flush, from 1, be the last thing that this process does."""
    real, count = atomic._flush, 0

    def flush(path: str | os.PathLike, flags: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            if Path(path).is_file():
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, flags)

    atomic._flush = flush


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--largest", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    accumulation.register_videos(args.folder)
    torch.manual_seed(0)  # initial weights
    cfg = accumulation.config(args.folder, KEYS | {"DATALOADER.NUM_WORKERS": args.workers})
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([Slow(args.slow)])
    if args.at:
        kill_at(args.at)
    (args.folder / "begun").touch()
    with largest_file(args.largest) if args.largest else nullcontext():
        trainer.train()


if __name__ == "__main__":
    cli.run(main)
