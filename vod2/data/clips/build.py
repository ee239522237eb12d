"""Loaders of clips."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.utils.data as torchdata

from vod2.d2 import (
    CfgNode,
    MapDataset,
    MetadataCatalog,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    build_detection_test_loader,
    build_detection_train_loader,
    comm,
    get_detection_dataset_dicts,
)
from vod2.data.clips.contexts import build_test_mapper
from vod2.data.clips.samplers import NumberedSampler, SizedDataset, TripletDataset, TripletVideos, VideoInferenceSampler
from vod2.data.clips.train_loader import Groups, SeededDataset, TrainingLoader
from vod2.data.clips.video_mapper import VideoDatasetMapper
from vod2.data.datasets import limit_images_per_class
from vod2.data.datasets.common import require_registered
from vod2.data.datasets.frame_annotations import FrameAnnotations
from vod2.data.datasets.video_index import VideoIndex, as_video_dicts
from vod2.errors import UserError


def build_video_train_loader(
    cfg: CfgNode, mapper: Callable[[dict], dict] | None = None, *, all_annotations: bool = False
) -> TrainingLoader:
    """An endless loader of training batches from DATASETS.TRAIN, shuffled together.

    Key frames are the frames that the datasets list, without those that have no objects if
    DATALOADER.FILTER_EMPTY_ANNOTATIONS; supports may be any frame of the video. DATASETS.TRAIN_PROPORTIONS sets how
    often each dataset comes. Clips carry `dataset_name`, the name in DATASETS.TRAIN that they are from.

    DATALOADER.SAMPLER_TRAIN = "TripletVideos" makes batches of DATALOADER.TRIPLET.NUM_CLASSES x NUM_VIDEOS clips, one
    whole batch for each process, and never groups by aspect ratio. Clips then carry `triplet_class` and `triplet_place`
    (see `TripletVideos`); VIDEO.TRAIN_SCHEDULE draws their supports.

    A batch is what one process sees of an update. With SOLVER.ACCUMULATE k, `vod2.engine.micro_batches` cuts it into
    those that k times as many processes would see: the same clips, groups by aspect ratio and triplets.

    With SEED >= 0 the batches are the same in every run, for any number of workers: each sample is drawn from the seed
    and its place in the training. The loader knows its position, see `TrainingLoader`: a training is resumed with the
    batches that it would have seen.

    Args:
        cfg: DATASETS, DATALOADER, INPUT, VIDEO.TRAIN_SCHEDULE, SOLVER.IMS_PER_BATCH and ACCUMULATE, SEED.
        mapper: maps a video dataset dict; None for `VideoDatasetMapper`.
        all_annotations: supports have `instances` also where the lists of the datasets leave their frames out; these
            are read when a clip is made (`frame_annotations` of the metadata). `vod2.modeling.asks_for_ids` tells
            whether a model wants them.

    Raises:
        UserError: no datasets, a dataset is missing, nothing is left to train on, an unknown sampler, proportions that
            do not fit the datasets, or a batch size that does not fit the processes or the triplets.
    """
    dicts, keys = _training_frames(cfg)
    index = VideoIndex(dicts, _annotation_readers(cfg.DATASETS.TRAIN) if all_annotations else None)
    if mapper is None:
        mapper = VideoDatasetMapper(cfg, is_train=True, index=index)
    clips: SizedDataset = MapDataset(torchdata.Subset(index.items, keys), mapper)
    in_triplets = cfg.DATALOADER.SAMPLER_TRAIN == "TripletVideos"
    if in_triplets:
        clips = TripletDataset(clips)
    in_groups = cfg.DATALOADER.ASPECT_RATIO_GROUPING and not in_triplets
    if not in_triplets:  # whose batches have a size of their own, which their sampler compares
        _require_equal_batches(cfg)
    processes, parts = comm.get_world_size(), cfg.SOLVER.ACCUMULATE

    def make(seed: int) -> tuple[Iterable[list[dict]], NumberedSampler]:
        sampler = NumberedSampler(_training_sampler(cfg, [dicts[key] for key in keys], seed))
        loader = build_detection_train_loader(
            dataset=SeededDataset(clips, seed),
            mapper=None,
            sampler=sampler,
            # Clip by clip, workers keep the order of the sampler; grouped by Detectron2, batches would depend on them.
            total_batch_size=processes if in_groups else cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=False,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        return loader, sampler

    # Every process needs the same seed for the sampler to share out one order.
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    groups = Groups(cfg.SOLVER.IMS_PER_BATCH // processes // parts, parts) if in_groups else None
    return TrainingLoader(make, seed, groups)


def _training_frames(cfg: CfgNode) -> tuple[list[dict], list[int]]:
    """All frames of DATASETS.TRAIN, which may be supports, and the positions of those that are key frames."""
    dicts = as_video_dicts(_load(cfg.DATASETS.TRAIN))
    if cfg.DATASETS.MAX_IMAGES_PER_CLASS:
        stills = [record for record in dicts if record["video_length"] == 1]
        frames = [record for record in dicts if record["video_length"] > 1]
        dicts = frames + limit_images_per_class(stills, cfg.DATASETS.MAX_IMAGES_PER_CLASS)
    keys = list(range(len(dicts)))
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        keys = [row for row in keys if _has_objects(dicts[row])]
    if not keys:
        raise UserError(
            f"no frame of {', '.join(cfg.DATASETS.TRAIN)} has objects: check the annotations, or set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False"
        )
    return dicts, keys


def _require_equal_batches(cfg: CfgNode) -> None:
    """Every process, and every part of its batch, needs as many clips as the others."""
    batch, processes, parts = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.SOLVER.ACCUMULATE
    if parts < 1 or batch < 1 or batch % (processes * parts):
        accumulated = f" times SOLVER.ACCUMULATE, which is {parts}" if parts != 1 else ""
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch}, expected a multiple of the {processes} processes{accumulated}"
        )


def build_video_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable[[dict], dict] | None = None
) -> torchdata.DataLoader:
    """A loader of every frame of a dataset, video after video in order, one frame a batch.

    Each process gets whole videos. Dicts carry `previous_index`, the number of the frame of the same video that comes
    before in this loader, None for the first: with it, the mapper knows which frames the stream already has.

    Args:
        cfg: DATALOADER.NUM_WORKERS, INPUT, VIDEO.TEST_SCHEDULE, TEST.CONTEXT.
        dataset_name: a registered dataset.
        mapper: maps a video dataset dict with `previous_index`; None for the one that TEST.CONTEXT calls for, see
            `build_test_mapper`.

    Raises:
        UserError: the dataset is not registered; TEST.CONTEXT is unknown, or "foreign" where the dataset has one video.
    """
    require_registered(dataset_name)
    dicts = in_stream_order(as_video_dicts(get_detection_dataset_dicts([dataset_name], filter_empty=False)))
    index = VideoIndex(dicts)
    if mapper is None:
        mapper = build_test_mapper(cfg, dicts, index)
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


def _load(names: Sequence[str]) -> list[dict]:
    """The dicts of all datasets, in order, each with the `dataset_name` it is from."""
    if not names:
        raise UserError("DATASETS.TRAIN is empty: name at least one registered dataset, such as 'synthetic_train'")
    dicts: list[dict] = []
    first_classes = None
    for name in names:
        require_registered(name)
        # Frames without objects are not dropped here: they may be supports.
        records = get_detection_dataset_dicts([name], filter_empty=False)
        dicts += [{**record, "dataset_name": name} for record in records]
        classes = MetadataCatalog.get(name).get("thing_classes")
        if name == names[0]:
            first_classes = classes
        if first_classes is not None and classes is not None and list(first_classes) != list(classes):
            raise UserError(
                f"{names[0]} and {name} have different thing_classes ({first_classes} and {classes}): datasets are "
                "trained on together only with the same classes in the same order"
            )
    return dicts


def _annotation_readers(names: Sequence[str]) -> dict[str, FrameAnnotations]:
    """Of the datasets that have one."""
    readers = {}
    for name in names:
        reader = MetadataCatalog.get(name).get("frame_annotations")
        if reader is not None:
            readers[name] = reader
    return readers


def _classes(record: dict) -> set[int]:
    """Of its objects, without crowds."""
    annotations = record.get("annotations") or ()
    return {annotation["category_id"] for annotation in annotations if not annotation.get("iscrowd", 0)}


def _has_objects(record: dict) -> bool:
    # As in Detectron2, a dataset without annotations at all is not filtered.
    return record.get("annotations") is None or bool(_classes(record))


def _training_sampler(cfg: CfgNode, dicts: Sequence[dict], seed: int) -> torchdata.Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TripletVideos":
        return _triplet_sampler(cfg, dicts, seed)
    if name not in ("TrainingSampler", "RepeatFactorTrainingSampler"):
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}, expected 'TrainingSampler', 'RepeatFactorTrainingSampler' or "
            "'TripletVideos'"
        )
    if name == "TrainingSampler" and not cfg.DATASETS.TRAIN_PROPORTIONS:
        return TrainingSampler(len(dicts), seed=seed)
    factors = torch.ones(len(dicts))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
    if cfg.DATASETS.TRAIN_PROPORTIONS:
        factors = _in_proportion(cfg, dicts, factors)
    return RepeatFactorTrainingSampler(factors, seed=seed)


def _in_proportion(cfg: CfgNode, dicts: Sequence[dict], factors: torch.Tensor) -> torch.Tensor:
    """Repeat factors scaled within each dataset to its share of DATASETS.TRAIN_PROPORTIONS; their mean is 1."""
    names, proportions = cfg.DATASETS.TRAIN, cfg.DATASETS.TRAIN_PROPORTIONS
    if len(proportions) != len(names) or not all(np.isfinite(p) and p > 0 for p in proportions):
        raise UserError(
            f"DATASETS.TRAIN_PROPORTIONS is {tuple(proportions)}, expected a positive number for each of the "
            f"{len(names)} datasets {', '.join(names)}, or () to take them as they are"
        )
    shares: Counter[str] = Counter()  # a dataset that is named twice has both of its shares
    weights: Counter[str] = Counter()
    for name, proportion in zip(names, proportions, strict=True):
        shares[name] += proportion / sum(proportions)
    for record, factor in zip(dicts, factors.tolist(), strict=True):
        weights[record["dataset_name"]] += factor
    if unused := sorted(shares.keys() - weights.keys()):
        raise UserError(
            f"DATASETS.TRAIN_PROPORTIONS gives {', '.join(unused)} a share, but none of its frames has objects: leave "
            "it out"
        )
    scales = {name: share * len(dicts) / weights[name] for name, share in shares.items()}
    return factors * torch.tensor([scales[record["dataset_name"]] for record in dicts])


def _triplet_sampler(cfg: CfgNode, dicts: Sequence[dict], seed: int) -> TripletVideos:
    classes, videos = cfg.DATALOADER.TRIPLET.NUM_CLASSES, cfg.DATALOADER.TRIPLET.NUM_VIDEOS
    processes, parts = comm.get_world_size(), cfg.SOLVER.ACCUMULATE
    size = classes * videos * processes * parts
    if cfg.SOLVER.IMS_PER_BATCH != size:
        accumulated = f" times SOLVER.ACCUMULATE = {parts}" if parts > 1 else ""
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, but batches of triplets have {classes} classes x "
            f"{videos} videos for each of {processes} processes{accumulated}: set it to {size}, or change "
            "DATALOADER.TRIPLET"
        )
    if cfg.DATASETS.TRAIN_PROPORTIONS:
        raise UserError("DATASETS.TRAIN_PROPORTIONS has no effect on TripletVideos, which draws by class: set it to ()")
    return TripletVideos(
        [record["video_id"] for record in dicts],
        [_classes(record) for record in dicts],
        classes,
        videos,
        seed=seed,
        accumulate=parts,
    )
