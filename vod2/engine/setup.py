"""From a command line to a frozen configuration."""

import argparse
import logging
import os
from collections.abc import Callable

import torch
import yaml

from vod2.config import add_video_config
from vod2.d2 import BACKEND, CfgNode, comm, default_setup, get_cfg, setup_logger
from vod2.errors import UserError

_LOGGER = logging.getLogger("vod2")


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """Detectron2's and vod2's defaults, then the file, then `KEY VALUE ...`; the CPU is chosen where there is no GPU.

    Raises:
        UserError: if the file is missing or broken, or a key or value does not exist.
    """
    cfg = add_video_config(get_cfg())
    if config_file:
        if not os.path.isfile(config_file):
            raise UserError(f"configuration {config_file!r} does not exist")
        _merge(cfg.merge_from_file, config_file, config_file)
    _merge(cfg.merge_from_list, list(overrides or []), "the command line")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _LOGGER.warning("no GPU found, running on the CPU")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.VIS_PERIOD:
        _LOGGER.warning("VIS_PERIOD is ignored: tools/visualize_data.py shows what the model is trained on")
    return cfg


def _merge(merge: Callable, argument: str | list[str], source: str) -> None:
    try:
        merge(argument)
    except (KeyError, AssertionError) as error:  # how yacs tells an unknown key, from a file and from a list
        keys = "the keys are those of Detectron2, of vod2/config.py and of projects/*/config.py"
        raise UserError(f"{_named(source, error.args[0])}; {keys}") from error
    except (AttributeError, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(_named(source, error)) from error


def _named(source: str, error: Exception | str) -> str:
    reason = " ".join(str(error).split())
    return reason if source in reason else f"{source}: {reason}"


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Begin a run: freeze `cfg`, start the logs, write config.yaml to OUTPUT_DIR, seed; in every process.

    `args` are those of `default_argument_parser`.
    """
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="vod2")
    _LOGGER.info("Detectron2 backend: %s", BACKEND)
