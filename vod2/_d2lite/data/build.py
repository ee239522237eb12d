"""From dataset names to data loaders."""

import itertools
import logging
import operator

import numpy as np
import torch
import torch.utils.data as torchdata
from tabulate import tabulate
from termcolor import colored

from vod2._d2lite.config import configurable
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
        ValueError: the datasets differ in their classes.
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
        dicts = [d for d in dicts if any(ann.get("iscrowd", 0) == 0 for ann in d["annotations"])]
        _logger.info("Removed %d images with no usable annotations. %d images left.", total - len(dicts), len(dicts))
    if not dicts:
        raise AssertionError(f"No valid data found in {','.join(names)}: none of its images has an annotation.")
    if has_instances and check_consistency:
        _report_classes(dicts, names)
    return dicts


def _report_classes(dicts, names):
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    known = [c for c in classes.values() if c is not None]
    if not known:
        return
    for name, value in classes.items():
        if value != known[0]:
            raise ValueError(f"Datasets {names} have different metadata 'thing_classes': {name} has {value}")
    print_instances_class_histogram(dicts, known[0])


def print_instances_class_histogram(dataset_dicts, class_names):
    """Logs a table of the number of instances of each class, crowds excepted.

    Raises:
        ValueError: a category_id outside of [0, len(class_names)), naming the file.
    """
    count = np.zeros(len(class_names), dtype=np.int64)
    for d in dataset_dicts:
        for ann in d["annotations"]:
            if ann.get("iscrowd", 0):
                continue
            if not 0 <= ann["category_id"] < len(class_names):
                raise ValueError(
                    f"{d.get('file_name')}: category_id {ann['category_id']} is outside of the "
                    f"{len(class_names)} classes of the dataset; ids must be in [0, {len(class_names)})"
                )
            count[ann["category_id"]] += 1
    cells = list(itertools.chain.from_iterable(zip(class_names, count.tolist(), strict=True)))
    cells += ["total", int(count.sum())]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    header = ["category", "#instances"] * min(3, len(cells) // 2)
    table = tabulate(rows, headers=header, tablefmt="pipe", numalign="left", stralign="center")
    _logger.info("Distribution of instances among all %d categories:\n%s", len(class_names), colored(table, "cyan"))


def build_batch_data_loader(
    dataset,
    sampler,
    total_batch_size,
    *,
    aspect_ratio_grouping=False,
    num_workers=0,
    collate_fn=None,
    drop_last=True,
    single_gpu_batch_size=None,
    seed=None,
    **kwargs,
):
    """A loader of training batches, each a list of `total_batch_size` / number of processes items.

    Args:
        dataset: map-style, or iterable (then `sampler` must be None).
        sampler: a sampler of indices.
        total_batch_size: the batch size over all processes, or None where `single_gpu_batch_size` is given.
        aspect_ratio_grouping: batches of only wide or only tall images; items need "width" and "height".
        num_workers: worker processes of this process.
        collate_fn: what makes a batch of a list of items; the list itself where None.
        drop_last: leave out a last batch that is not full.
        single_gpu_batch_size: the batch size of this process.
        seed: of the workers' random state; None derives it from torch's global one.
        kwargs: handed to `torch.utils.data.DataLoader`.
    """
    batch_size = _local_batch_size(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, torchdata.IterableDataset):
        if sampler is not None:
            raise ValueError(f"an iterable dataset takes no sampler, got {sampler}")
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    kwargs.update(num_workers=num_workers, worker_init_fn=worker_init_reset_seed)
    if seed is not None:
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return torchdata.DataLoader(
            dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, **kwargs
        )
    # The workers give single items, and the batches are formed here.
    loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
    loader = AspectRatioGroupedDataset(loader, batch_size)
    return loader if collate_fn is None else MapDataset(loader, collate_fn)


def _local_batch_size(total_batch_size, single_gpu_batch_size):
    if (total_batch_size is None) == (single_gpu_batch_size is None):
        raise ValueError(
            "expected exactly one of total_batch_size and single_gpu_batch_size, "
            f"got {total_batch_size} and {single_gpu_batch_size}"
        )
    if single_gpu_batch_size is not None:
        return single_gpu_batch_size
    world_size = comm.get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(f"Total batch size ({total_batch_size}) must be divisible by #gpus ({world_size}).")
    return total_batch_size // world_size


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if mapper is None:
        mapper = DatasetMapper(cfg, True)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _training_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
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
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see `build_batch_data_loader`.

    Returns:
        An iterable of lists of mapped items.
    """
    dataset = _map_style_or_iterable(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name, mapper=None):
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    if mapper is None:
        mapper = DatasetMapper(cfg, False)
    return {
        "dataset": dataset,
        "mapper": mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(dataset, *, mapper, sampler=None, batch_size=1, num_workers=0, collate_fn=None):
    """A loader that gives each item once over all processes. Called like this, or with (cfg, dataset_name).

    Args:
        dataset: a list of dataset dicts, or a torch dataset.
        mapper: what makes a test item of a dataset dict; None leaves it as it is. With a cfg: `DatasetMapper`.
        sampler: `InferenceSampler` by default; must be None for an iterable dataset.
        batch_size: of this process.
        num_workers: worker processes of this process.
        collate_fn: what makes a batch of a list of items; the list itself where None.
    """
    dataset = _map_style_or_iterable(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def _map_style_or_iterable(dataset, mapper):
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    return dataset if mapper is None else MapDataset(dataset, mapper)


def trivial_batch_collator(batch):
    """A batch is the list of its items."""
    return batch


def worker_init_reset_seed(worker_id):
    """Seeds Python, NumPy and torch in a worker process from the loader's seed, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
