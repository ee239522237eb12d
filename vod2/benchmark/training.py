"""Training steps side by side: forward, backward and update of one batch, and the memory that they take.

The trainers' own models, optimizers and clips, of synthetic videos that are written first. All are in one process and
their steps alternate. Reading of clips is not in the times: batches are drawn beforehand. The weights are random, so
frozen normalisation is damped.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from vod2.atomic import write_json
from vod2.benchmark.alone import peak_alone
from vod2.benchmark.machine import peak_mb, synchronize
from vod2.d2 import EventStorage, seed_all_rng
from vod2.data.datasets import register_imagenet_vid
from vod2.data.synthetic import SYNTHETIC_CLASSES, SyntheticConfig, write_synthetic
from vod2.engine import VideoTrainer, load_config
from vod2.engine.random_weights import damp_frozen_normalisation
from vod2.errors import UserError

DATASET = "benchmark_training"
_FRAMES = 24  # of a video: a keyframe of LSTS lies up to 21 frames before
_BATCHES = 4  # that are drawn, and trained on in turns
_WARM_UP = 2


class Row(NamedTuple):
    """What was measured of a training; seconds of a step, memory in MiB.

    Args:
        images: mean number of frames in a batch, key frames and supports.
        images_s: frames that are trained on in a second.
        ratio: median over that of the first row.
    """

    config: str
    median_s: float
    p95_s: float
    steps: int
    ratio: float
    images: float
    images_s: float
    peak_mb: float


class Training:
    """A model with random weights, its optimizer, and some batches of clips."""

    def __init__(self, config: str, device: torch.device, batch: int, output: Path) -> None:
        self.config, self._device = config, device
        keys: dict[str, Any] = {
            "MODEL.WEIGHTS": "",
            "MODEL.DEVICE": str(device),
            "DATASETS.TRAIN": (DATASET,),
            "DATASETS.TEST": (),
            "DATASETS.TRAIN_PROPORTIONS": (),
            "DATALOADER.NUM_WORKERS": 0,
            "SOLVER.IMS_PER_BATCH": batch,
            "SEED": 1,
            "OUTPUT_DIR": str(output),
        }
        # Before the trainer draws the weights.
        seed_all_rng(0)
        trainer = VideoTrainer(load_config(config, list(itertools.chain.from_iterable(keys.items()))))
        damp_frozen_normalisation(trainer.model.backbone)
        self._model, self._optimizer = trainer.model.train(), trainer.optimizer
        self._batches = list(itertools.islice(iter(trainer.data_loader), _BATCHES))
        counts = [sum(1 + len(clip.get("support", ())) for clip in batch) for batch in self._batches]
        self.images = statistics.fmean(counts)
        self._next = itertools.cycle(self._batches)
        self.seconds: list[float] = []

    def step(self) -> float:
        """Seconds of one step."""
        batch = next(self._next)
        synchronize(self._device)
        start = time.perf_counter()
        with EventStorage():
            sum(self._model(batch).values()).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        synchronize(self._device)
        return time.perf_counter() - start


def make_videos(size: tuple[int, int], folder: Path) -> None:
    """Write and register the videos that are trained on."""
    height, width = size
    try:
        config = SyntheticConfig(0, 2, 1, _FRAMES, height, width)
    except ValueError as error:
        raise UserError(f"--size {height}x{width}: synthetic videos cannot have it ({error})") from error
    write_synthetic(config, folder)
    register_imagenet_vid(DATASET, str(folder), "train", SYNTHETIC_CLASSES)


def run(args: argparse.Namespace) -> None:
    """Measure and print the trainings; with --peak, only run one and print the memory that it took."""
    if not args.config_file:
        raise UserError("there is no training to measure: give --config-file FILE ...")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_videos(tuple(args.size), Path(folder) / "videos")
        output = Path(folder) / "output"
        if args.peak:
            training = Training(args.config_file[0], args.device, args.batch, output)
            for _ in range(2):
                training.step()
            print(peak_mb(args.device))
            return
        # First, while this process holds little itself.
        peaks = [peak_alone("training", config, args, "--batch", str(args.batch)) for config in args.config_file]
        trainings = [Training(config, args.device, args.batch, output) for config in args.config_file]
        for turn in range(_WARM_UP + args.steps):
            for training in trainings:
                seconds = training.step()
                if turn >= _WARM_UP:
                    training.seconds.append(seconds)
    rows = [make_row(training, trainings[0], peak) for training, peak in zip(trainings, peaks, strict=True)]
    document = {
        "device": str(args.device),
        "threads": args.threads,
        "size": list(args.size),
        "batch": args.batch,
        "rows": [row._asdict() for row in rows],
    }
    print(render(document))
    if args.json:
        write_json(args.json, document)


def make_row(training: Training, first: Training, peak: float) -> Row:
    seconds = sorted(training.seconds)
    median = statistics.median(seconds)
    return Row(
        config=training.config,
        median_s=median,
        p95_s=seconds[round(0.95 * (len(seconds) - 1))],
        steps=len(seconds),
        ratio=median / statistics.median(first.seconds),
        images=training.images,
        images_s=training.images / median,
        peak_mb=peak,
    )


def render(document: dict) -> str:
    """The table as Markdown."""
    height, width = document["size"]
    table = [
        [
            Path(row["config"]).stem,
            f"{1000 * row['median_s']:.0f}",
            f"{1000 * row['p95_s']:.0f}",
            f"{row['ratio']:.2f}x",
            f"{row['images']:.1f}",
            f"{row['images_s']:.2f}",
            f"{row['peak_mb']:.0f}",
        ]
        for row in document["rows"]
    ]
    headers = ["", "median ms", "p95 ms", "ratio", "images a step", "images/s", "peak MiB"]
    title = (
        f"Training at {height} x {width} pixels on {document['device']}, threads: {document['threads']}, float32, "
        f"batches of {document['batch']}"
    )
    return f"{title}\n\n{tabulate(table, headers, tablefmt='github', disable_numparse=True)}\n"
