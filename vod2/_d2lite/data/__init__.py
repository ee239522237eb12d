"""Datasets, mappers and data loaders."""
# ruff: noqa: F401

from . import detection_utils, transforms
from .build import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, MetadataCatalog
from .common import DatasetFromList, MapDataset
from .dataset_mapper import DatasetMapper
