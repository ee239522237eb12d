"""A short training that may kill itself in the middle of writing a file.

Run as `python -m helpers.killed_training FOLDER --workers N [--at FLUSH] [--slow SECONDS]`; it always resumes. FLUSH
counts the times that a file or a folder is forced to the disk: the file that is being written is cut in half first.
"""

import argparse
import os
import signal
import time
from pathlib import Path

import torch

from helpers import accumulation
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
FLUSHES = 8  # of a checkpoint: four files, and the folder after each


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
    trainer.train()


if __name__ == "__main__":
    cli.run(main)
