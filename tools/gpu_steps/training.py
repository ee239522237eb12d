"""Training steps of three methods at the authors' sizes, one clip a step, in float32 and in mixed precision.

The library's own trainer on synthetic videos; the backbone begins with random weights, its normalisation is frozen.
"""

import itertools
import math
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from gpu_steps.step import Failed, NotApplicable, Step
from gpu_steps.streams import configuration
from gpu_steps.timing import PeakMemory
from vod2.benchmark.machine import synchronize
from vod2.d2 import CfgNode, EventStorage, HookBase, seed_all_rng
from vod2.data.datasets import register_imagenet_vid
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_synthetic
from vod2.engine import VideoTrainer
from vod2.engine.random_weights import damp_frozen_normalisation

METHODS = ("RDN_R101.yaml", "MST_R101.yaml", "LSTS_R101.yaml")
SMALL = ("quick/RDN.yaml", "quick/MST.yaml", "quick/LSTS.yaml")
STEPS = 30
AMP_TOLERANCE = 0.05
"""Largest relative difference of the first step's total loss in mixed precision, same weights, clip and samples."""

_DATASET = "gpu_report_train"


def run(step: Step) -> None:
    step.case("videos", partial(_make_videos, step))
    register_imagenet_vid(_DATASET, str(_videos(step)), "train", SYNTHETIC_CLASSES)
    for config in SMALL if step.small else METHODS:
        title = config.rpartition("/")[2].removesuffix(".yaml").removesuffix("_R101")
        for amp in (False, True):
            step.case(f"{title}, {'AMP' if amp else 'fp32'}", partial(_train, step, config, amp), needs=10)
        step.case(f"{title}, AMP against fp32", partial(_same_loss, step, config), needs=6)


def _videos(step: Step) -> Path:
    return step.folder / "videos"


def _make_videos(step: Step) -> None:
    height, width = (64, 96) if step.small else (600, 1000)
    frames = 24  # a keyframe of LSTS lies up to 21 frames before
    write_synthetic(SyntheticConfig(0, 2, 1, frames, height, width), _videos(step))


def _trainer(step: Step, config: str, amp: bool) -> VideoTrainer:
    # The same initial weights whatever ran before, so that both precisions start alike.
    seed_all_rng(0)
    cfg = _configuration(step, config, amp)
    trainer = VideoTrainer(cfg)
    # Random weights: without it activations grow from block to block until half precision overflows.
    damp_frozen_normalisation(trainer.model.backbone)
    return trainer


def _configuration(step: Step, config: str, amp: bool) -> CfgNode:
    if amp and step.device != "cuda":
        raise NotApplicable("mixed precision of training needs a GPU")
    keys = {
        "DATASETS.TRAIN": (_DATASET,),
        "DATASETS.TEST": (),
        "DATASETS.TRAIN_PROPORTIONS": (),
        "DATALOADER.NUM_WORKERS": 0 if step.small else 4,
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.AMP.ENABLED": amp,
        "SOLVER.MAX_ITER": 3 if step.small else STEPS,
        "SEED": 1,
        "OUTPUT_DIR": str(step.folder / config.replace("/", "_")),
    }
    words = itertools.chain.from_iterable(keys.items())
    return configuration(step.root, config, step.device, *words)


class _Watch(HookBase):
    """Seconds of each step with the device idle before and after, those spent waiting for the clip, and the loss."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self.losses, self.waiting = device, [], [], []

    def before_step(self) -> None:
        synchronize(self.device)
        self.begin = time.perf_counter()

    def after_step(self) -> None:
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.begin)
        latest = self.trainer.storage.latest()
        self.losses.append(latest["total_loss"][0])
        self.waiting.append(latest["data_time"][0])


def _train(step: Step, config: str, amp: bool) -> dict:
    trainer = _trainer(step, config, amp)
    watch = _Watch(step.device)
    # Without checkpoints, evaluation and writers, whose time is not that of a step.
    trainer._hooks = [hook for hook in trainer._hooks if type(hook).__name__ in ("IterationTimer", "LRScheduler")]
    trainer.register_hooks([watch])
    peak = PeakMemory(step.device, trainer.model)
    trainer.train()
    num_warmup = len(watch.seconds) // 3  # the first ones choose algorithms
    values = {
        "s/step": statistics.median(watch.seconds[num_warmup:]),
        "of them waiting for data": statistics.median(watch.waiting[num_warmup:]),
        "peak GiB": peak.gib(),
        "steps": len(watch.seconds),
        "first loss": watch.losses[0],
        "last loss": watch.losses[-1],
    }
    if not all(map(math.isfinite, watch.losses)):
        raise Failed("a loss is not finite", **values)
    return values


def _same_loss(step: Step, config: str) -> dict:
    """The total loss of the first clip in float32 and in mixed precision."""
    losses = [_first_loss(step, config, amp) for amp in (True, False)]
    relative = abs(losses[0] - losses[1]) / losses[1]
    values = {"AMP loss": losses[0], "fp32 loss": losses[1], "difference": relative, "tolerance": AMP_TOLERANCE}
    # Not `>`, which NaN would pass.
    if not relative <= AMP_TOLERANCE:
        raise Failed("mixed precision gives another loss", **values)
    return values


def _first_loss(step: Step, config: str, amp: bool) -> float:
    trainer = _trainer(step, config, amp)
    batch = next(iter(trainer.data_loader))
    seed_all_rng(2)  # which anchors and RoIs are sampled
    with EventStorage(), torch.no_grad(), torch.autocast("cuda", dtype=torch.float16, enabled=amp):
        return float(sum(trainer.model(batch).values()))
