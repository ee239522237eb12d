"""Loaders of clips."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.utils.data as torchdata

from vod2.d2 import (
    CfgNode,
    MapDataset,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    build_detection_test_loader,
    build_detection_train_loader,
    comm,
    get_detection_dataset_dicts,
)
from vod2.data.datasets import limit_images_per_class
from vod2.data.samplers import NumberedSampler, VideoInferenceSampler
from vod2.data.video_index import VideoIndex
from vod2.data.video_mapper import VideoDatasetMapper
from vod2.errors import UserError


def as_video_dicts(dicts: Iterable[dict]) -> list[dict]:
    """Give Detectron2's dataset dicts the keys of a video where they lack them; those that have them stay as they are.

    A dict without `video_id` is a still image: a video of one frame, named after its file. Without `video_length`, a
    video ends with its last frame in `dicts`; numbers may have gaps (see `VideoIndex.path`).

    Raises:
        UserError: a dict with `video_id` has no `frame_index`, or one has no `height` and `width`.
    """
    completed = []
    lengths: dict[str, int] = {}
    for record in dicts:
        record = dict(record)
        if "video_id" not in record:
            record |= {"video_id": record["file_name"], "frame_index": 0, "video_length": 1}
        missing = [key for key in ("frame_index", "height", "width") if key not in record]
        if missing:
            raise UserError(
                f"{record['file_name']}: its dataset dict has no {' and no '.join(missing)}: add them where the "
                "dataset is registered"
            )
        video = record["video_id"]
        lengths[video] = max(lengths.get(video, 0), record["frame_index"] + 1)
        completed.append(record)
    for record in completed:
        record.setdefault("video_length", lengths[record["video_id"]])
    return completed


def build_video_train_loader(cfg: CfgNode, mapper: Callable[[dict], dict] | None = None) -> Iterable[list[dict]]:
    """An endless loader of training batches from DATASETS.TRAIN, shuffled together.

    Key frames are the frames that the datasets list, without those that have no objects if
    DATALOADER.FILTER_EMPTY_ANNOTATIONS; supports may be any frame of the video.

    With SEED >= 0 the samples are the same in every run, for any number of workers: each is drawn from the seed and
    its place in the training. So are the batches, except that with DATALOADER.ASPECT_RATIO_GROUPING and more than one
    image per process, the number of workers decides which samples meet in a batch.

    Args:
        cfg: DATASETS, DATALOADER, INPUT, VIDEO.TRAIN_SCHEDULE, SOLVER.IMS_PER_BATCH, SEED.
        mapper: maps a video dataset dict; None for `VideoDatasetMapper`.

    Raises:
        UserError: no datasets, a dataset is missing, nothing is left to train on, or an unknown sampler.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one registered dataset, such as 'synthetic_train'")
    # Frames without objects are not dropped here: they may be supports.
    dicts = as_video_dicts(get_detection_dataset_dicts(list(cfg.DATASETS.TRAIN), filter_empty=False))
    if cfg.DATASETS.MAX_IMAGES_PER_CLASS:
        dicts = _limit_still_images(dicts, cfg.DATASETS.MAX_IMAGES_PER_CLASS)
    keys = [i for i, record in enumerate(dicts) if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or _has_objects(record)]
    if not keys:
        raise UserError(
            f"no frame of {', '.join(cfg.DATASETS.TRAIN)} has objects: check the annotations, or set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False"
        )
    index = VideoIndex(dicts)
    if mapper is None:
        mapper = VideoDatasetMapper(cfg, is_train=True, index=index)
    # Every process needs the same seed for the sampler to share out one order.
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return build_detection_train_loader(
        dataset=SeededDataset(MapDataset(torchdata.Subset(index.items, keys), mapper), seed),
        mapper=None,
        sampler=NumberedSampler(_training_sampler(cfg, [dicts[key] for key in keys], seed)),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_video_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable[[dict], dict] | None = None
) -> torchdata.DataLoader:
    """A loader of every frame of a dataset, video after video in order, one frame a batch.

    Each process gets whole videos. Dicts carry `previous_index`, the number of the frame of the same video that comes
    before in this loader, None for the first: with it, the mapper knows which frames the stream already has.

    Args:
        cfg: DATALOADER.NUM_WORKERS, INPUT, VIDEO.TEST_SCHEDULE.
        dataset_name: a registered dataset.
        mapper: maps a video dataset dict with `previous_index`; None for `VideoDatasetMapper`.
    """
    dicts = in_stream_order(as_video_dicts(get_detection_dataset_dicts([dataset_name], filter_empty=False)))
    index = VideoIndex(dicts)
    if mapper is None:
        mapper = VideoDatasetMapper(cfg, is_train=False, index=index)
    return build_detection_test_loader(
        dataset=index.items,
        mapper=mapper,
        sampler=VideoInferenceSampler([record["video_id"] for record in dicts]),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def in_stream_order(dicts: Sequence[dict]) -> list[dict]:
    """Copies of video dicts, each video's frames together and in order, with `previous_index`."""
    first: dict[str, int] = {}
    for record in dicts:
        first.setdefault(record["video_id"], len(first))
    previous: dict[str, int] = {}
    ordered = []
    for record in sorted(dicts, key=lambda record: (first[record["video_id"]], record["frame_index"])):
        video = record["video_id"]
        ordered.append({**record, "previous_index": previous.get(video)})
        previous[video] = record["frame_index"]
    return ordered


class SeededDataset(torchdata.Dataset):
    """A dataset whose every item is drawn from a seed and the number that comes with its position.

    Mappers and augmentations draw from the global generators of numpy, Python and torch, whose state depends on the
    worker that is asked and on what it did before. They are seeded for each item here, and put back afterwards.

    Args:
        dataset: map-style.
        seed: at least 0.
    """

    def __init__(self, dataset: torchdata.Dataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        number, position = item
        with _seeded(np.random.SeedSequence((self._seed, number))):
            return self._dataset[position]


@contextlib.contextmanager
def _seeded(sequence: np.random.SeedSequence) -> Iterator[None]:
    numpy_seed, python_seed, torch_seed = sequence.generate_state(3).tolist()
    states = np.random.get_state(), random.getstate(), torch.default_generator.get_state()
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    torch.default_generator.manual_seed(torch_seed)  # unlike torch.manual_seed, this leaves the GPU's alone
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.default_generator.set_state(states[2])


def _has_objects(record: dict) -> bool:
    # As in Detectron2, a dataset without annotations at all is not filtered.
    annotations = record.get("annotations")
    return annotations is None or any(not annotation.get("iscrowd", 0) for annotation in annotations)


def _limit_still_images(dicts: Sequence[dict], limit: int) -> list[dict]:
    stills = limit_images_per_class([record for record in dicts if record["video_length"] == 1], limit)
    return [record for record in dicts if record["video_length"] > 1] + stills


def _training_sampler(cfg: CfgNode, dicts: Sequence[dict], seed: int) -> torchdata.Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dicts), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise UserError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}, expected 'TrainingSampler' or 'RepeatFactorTrainingSampler'"
    )
