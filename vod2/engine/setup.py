"""From a command line to a frozen configuration."""

import argparse
import logging
import os
import tempfile
from collections.abc import Callable
from functools import partial

import torch
import yaml

from vod2.config import add_video_config
from vod2.d2 import BACKEND, CfgNode, comm, default_setup, get_cfg, setup_logger
from vod2.engine.config_values import check_values
from vod2.engine.registration import register_files
from vod2.engine.rows import TRAIN, resolve_rows, row_of_former_file, split_row
from vod2.engine.yaml_files import require_keys_and_values
from vod2.errors import UserError
from vod2.keys import unread_keys
from vod2.package_files import command_line, find_config, similar_config

_LOGGER = logging.getLogger("vod2")


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """Detectron2's and vod2's defaults, then the file, then `KEY VALUE ...`; the CPU is chosen where there is no GPU.

    Args:
        config_file: "" for the defaults; FILE, or FILE:ROW for a row of a paper's table (`vod2.engine.rows`). Where
            there is no such file it is the name of one that comes with vod2, such as "RDN_R101.yaml", "quick/RDN.yaml"
            or "configs/quick/RDN.yaml".
        overrides: `KEY VALUE ...`.

    Raises:
        UserError: if the file is missing or broken, or a row, key or value does not exist.

    Example:
        >>> load_config("configs/ablations/rdn.yaml:T3").VIDEO.TEST_SCHEDULE.RADIUS
        3
    """
    cfg = add_video_config(get_cfg())
    if config_file:
        _merge_configuration(cfg, os.fspath(config_file))
    _merge(cfg.merge_from_list, list(overrides or []), "the command line")
    check_values(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _LOGGER.warning("no GPU found, running on the CPU")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.VIS_PERIOD:
        _LOGGER.warning("VIS_PERIOD is ignored: tools/visualize_data.py shows what the model is trained on")
    return cfg


def _merge_configuration(cfg: CfgNode, config_file: str) -> None:
    """FILE, or the file that FILE:ROW begins with and then one row after the other."""
    file = find_config(split_row(config_file)[0])
    if not os.path.isfile(file):
        raise UserError(f"configuration {file!r} does not exist: {_remedy(file)}")
    path, rows = resolve_rows(config_file)
    merged = require_keys_and_values(path)
    if merged is None:
        _merge(cfg.merge_from_file, path, path)
    else:
        _merge(partial(_merge_mapping, cfg), merged, path)
    weights = f"{cfg.OUTPUT_DIR}/model_final.pth"
    for row in rows:
        _merge(cfg.merge_from_other_cfg, type(cfg)(row.settings(weights)), str(row))
        # Test settings that follow are evaluated with the weights of this training
        if row.kind == TRAIN:
            weights = f"{cfg.OUTPUT_DIR}/model_final.pth"


def _merge_mapping(cfg: CfgNode, mapping: dict) -> None:
    """By way of a file: Detectron2 looks at the version of a file, and at no other's."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "merged.yaml")
        with open(file, "w", encoding="utf-8") as stream:
            yaml.safe_dump(mapping, stream)
        cfg.merge_from_file(file)


def _remedy(file: str) -> str:
    """What to give instead of a configuration that does not exist."""
    if row := row_of_former_file(file):
        return f"it is a row of a file now, give {row}"
    names = f"{command_line('show')} --list has the names of those that come with vod2"
    return (
        f"did you mean {similar}? {names}" if (similar := similar_config(file)) else f"give a file, or a name: {names}"
    )


def _merge(merge: Callable, argument: str | list[str] | dict | CfgNode, source: str) -> None:
    try:
        merge(argument)
    except (KeyError, AssertionError) as error:  # how yacs tells an unknown key, from a file and from a list
        keys = "the keys are those of Detectron2 and of docs/config.md"
        raise UserError(f"{_named(source, error.args[0])}; {keys}") from error
    # MemoryError: Python's parser on deep nesting
    except (AttributeError, MemoryError, OSError, RecursionError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(_named(source, error)) from error


def _named(source: str, error: Exception | str) -> str:
    reason = " ".join(str(error).split())
    return reason if source in reason else f"{source}: {reason}"


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Begin a run: freeze `cfg`, start the logs, write config.yaml to OUTPUT_DIR, seed; in every process.

    A warning lists the keys that are set though nothing reads them in this configuration (`vod2.keys.unread_keys`).

    `args` are those of `default_argument_parser`.
    """
    register_files()  # in a process of its own, nothing has been registered
    cfg.freeze()
    # Detectron2 prints the file, and knows no FILE:ROW
    default_setup(cfg, argparse.Namespace(**vars(args) | {"config_file": find_config(split_row(args.config_file)[0])}))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="vod2")
    _LOGGER.info("Detectron2 backend: %s", BACKEND)
    if unread := unread_keys(cfg):
        listed = "; ".join(map(str, unread))
        _LOGGER.warning("keys that are set but not read, and so change nothing: %s (docs/config.md)", listed)
