"""From dataset names to data loaders."""

import logging
import operator
from collections import Counter

import torch
import torch.utils.data as torchdata
from tabulate import tabulate

from vod2._d2lite.config import check_supported, configurable
from vod2._d2lite.utils import comm
from vod2._d2lite.utils.env import seed_all_rng

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

_logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(names, filter_empty=True, check_consistency=True):
    """The dataset dicts of one or several registered datasets, in one list.

    Args:
        names: a name or a list of names.
        filter_empty: leave out images all of whose annotations are crowds, or that have none.
        check_consistency: require the same `thing_classes` of all of them.

    Raises:
        KeyError: a name is not registered; the message lists the known ones.
        AssertionError: no name, an empty dataset, or nothing left by the filter (Detectron2's exception type).
        ValueError: the datasets differ in their classes, or a category_id is outside of them.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise AssertionError("expected at least one dataset name, got none: set DATASETS.TRAIN and DATASETS.TEST")
    dicts = []
    for name in names:
        dataset = DatasetCatalog.get(name)
        if not len(dataset):
            raise AssertionError(f"Dataset '{name}' is empty! Check the paths that it was registered with.")
        dicts.extend(dataset)

    has_instances = "annotations" in dicts[0]
    if filter_empty and has_instances:
        total = len(dicts)
        # Crowds are not trained on: an image with nothing else has no target
        dicts = [d for d in dicts if any(ann.get("iscrowd", 0) == 0 for ann in d["annotations"])]
        _logger.info("Removed %d images with no usable annotations. %d images left.", total - len(dicts), len(dicts))
    if not dicts:
        raise AssertionError(f"No valid data found in {','.join(names)}: none of its images has an annotation.")
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if has_instances and check_consistency and classes[0] is not None:
        if any(other != classes[0] for other in classes):
            raise ValueError(f"Datasets {names} have different metadata 'thing_classes': {classes}")
        _log_class_histogram(dicts, classes[0])
    return dicts


def _log_class_histogram(dicts, class_names):
    count: Counter[int] = Counter()
    for d in dicts:
        for ann in d["annotations"]:
            if ann.get("iscrowd", 0):
                continue
            # Unchecked, it would be taken for background, or fail on a GPU without naming the image or the class
            if not 0 <= ann["category_id"] < len(class_names):
                raise ValueError(
                    f"{d.get('file_name')}: category_id {ann['category_id']} is outside of the "
                    f"{len(class_names)} classes of the dataset; ids must be in [0, {len(class_names)})"
                )
            count[ann["category_id"]] += 1
    rows = [(name, count[k]) for k, name in enumerate(class_names)] + [("total", count.total())]
    table = tabulate(rows, headers=["category", "#instances"], tablefmt="pipe")
    _logger.info("Distribution of instances among all %d categories:\n%s", len(class_names), table)


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
    check_supported(cfg, {"MODEL.LOAD_PROPOSALS": False})
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _training_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _training_sampler(cfg, dataset):
    name = cfg.DATALOADER.SAMPLER_TRAIN
    _logger.info("Using training sampler %s", name)
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors)
    raise ValueError(
        f"Unknown training sampler: DATALOADER.SAMPLER_TRAIN is {name!r}, "
        "expected 'TrainingSampler' or 'RepeatFactorTrainingSampler'"
    )


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset,
    *,
    mapper,
    sampler=None,
    total_batch_size,
    aspect_ratio_grouping=True,
    num_workers=0,
    collate_fn=None,
    **kwargs,
):
    """A loader of training batches without an end. Called with these arguments, or with a cfg in place of `dataset`.

    Args:
        dataset: a list of dataset dicts, or a torch dataset.
        mapper: what makes a training item of a dataset dict; None leaves it as it is. With a cfg: `DatasetMapper`.
        sampler: `TrainingSampler` by default; must be None for an iterable dataset.
        total_batch_size: the batch size over all processes, a multiple of their number.
        aspect_ratio_grouping: batches of only wide or only tall images; items need "width" and "height".
        num_workers: worker processes of this process.
        collate_fn: what makes a batch of a list of mapped items; the list itself where None.
        kwargs: handed to `torch.utils.data.DataLoader`.
    """
    world_size = comm.get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(f"Total batch size ({total_batch_size}) must be divisible by #gpus ({world_size}).")
    batch_size = total_batch_size // world_size
    dataset, sampler = _mapped(dataset, mapper, sampler, TrainingSampler)
    if not isinstance(dataset, torchdata.IterableDataset):
        # Each worker reads whole batches, so that without grouping they do not depend on the number of workers
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    elif sampler is not None:
        raise ValueError(f"an iterable dataset takes no sampler, got {sampler}")
    kwargs.update(num_workers=num_workers, worker_init_fn=_seed_worker)
    if not aspect_ratio_grouping:
        kwargs.update(batch_size=batch_size, drop_last=True, collate_fn=collate_fn or _as_list)
        return torchdata.DataLoader(dataset, **kwargs)
    # The workers give single items, and the batches are formed here.
    loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
    batches = AspectRatioGroupedDataset(loader, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _test_loader_from_config(cfg, dataset_name, mapper=None):
    check_supported(cfg, {"MODEL.LOAD_PROPOSALS": False})
    return {
        # Detections in an image without annotations are false positives and have to count
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(dataset, *, mapper, sampler=None, batch_size=1, num_workers=0, collate_fn=None):
    """A loader that gives each item once over all processes. Called like this, or with (cfg, dataset_name).

    Args:
        dataset, mapper, collate_fn: as in `build_detection_train_loader`.
        sampler: `InferenceSampler` by default; must be None for an iterable dataset.
        batch_size, num_workers: of this process.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, InferenceSampler)
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or _as_list,
    )


def _mapped(dataset, mapper, sampler, default_sampler):
    """The mapped dataset, and its sampler: None for an iterable one."""
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    dataset = dataset if mapper is None else MapDataset(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = default_sampler(len(dataset))
    return dataset, sampler


def _as_list(batch):
    return batch


def _seed_worker(worker_id):
    """Seeds Python, NumPy and torch in a worker process from the loader's seed, each worker differently."""
    # Detectron2's formula: with one seed its workers draw the same augmentations
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
