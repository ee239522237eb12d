"""Weights of other code to a file for a model of this project."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vod2.checkpoint import SOURCES, Conversion, LoadReport, Target, compare, convert
from vod2.checkpoint.public_file import sha256, write_weights
from vod2.checkpoint.settings import differing
from vod2.checkpoint.sources import of_resnet
from vod2.d2 import CfgNode, build_model
from vod2.engine.setup import load_config
from vod2.errors import UserError
from vod2.package_files import CONFIGS, find_config


class Converted(NamedTuple):
    """What was made of a file.

    Args:
        conversion: the new names, and what each tensor went through.
        report: what the model has of it.
        settings: `KEY VALUE ...` that these weights need, other than the configuration has them.
    """

    conversion: Conversion
    report: LoadReport
    settings: list[str]


def convert_file(
    state: Mapping[str, Tensor],
    source: str,
    file: str,
    output: str,
    config: str,
    opts: Sequence[str] = (),
    partial: bool = False,
) -> Converted:
    """Write the weights of another code for the model of a configuration.

    Args:
        state: tensors by their names there, see `vod2.checkpoint.public_file.read_public`.
        source: whose they are, a name of `SOURCES`.
        file: that they were read from; the output names it, with its hash.
        output: the .safetensors file to write, in one step.
        config: see `load_config`.
        opts: `KEY VALUE ...` for it.
        partial: parts of the model may be missing, but not the ResNet.

    Raises:
        UserError: the weights are not those of the model.
    """
    cfg = load_config(config, list(opts))
    model = _build_without_memory(cfg, source)
    conversion = convert(state, source, Target.of(cfg, model))
    report = compare(model, conversion.state, file)
    report = replace(report, unused=conversion.unused | report.unused)
    _require_fit(report, conversion.partial or partial)
    report = _without_broken_layers(report)
    write_weights(
        output, {name: conversion.state[name] for name in report.loaded}, _metadata(source, file, config, opts)
    )
    return Converted(conversion, report, differing(cfg, conversion.settings))


def _build_without_memory(cfg: CfgNode, source: str) -> nn.Module:
    """What is to be filled, with the shapes of its parameters, but without their numbers."""
    cfg = cfg.clone()
    # On "meta" a tensor has a shape but no memory: the weights come from the file.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return (SOURCES[source].network or build_model)(cfg)


def _require_fit(report: LoadReport, partial: bool) -> None:
    """Refuse what would make another model than the file's, or one with random numbers where it has to know something.

    Raises:
        UserError: if tensors are of another shape, missing or unused; if `partial`, only those of a ResNet count.
    """

    def relevant(names: Iterable[str]) -> list[str]:
        return [name for name in names if not partial or of_resnet(name)]

    start = f"{report.path}: "
    remedy = "give the configuration that the weights are of with --config-file"
    if names := relevant(report.other_shape):
        shape, wanted = report.other_shape[names[0]]
        problem = f"{names[0]!r} would have the shape {shape}, expected {wanted}"
        raise UserError(start + f"{problem}: {remedy} (classes, widths){'' if partial else ' or --partial'}")
    if names := relevant(report.new):
        problem = f"{len(names)} of {len(report.wanted)} tensors are missing, for example {names[0]!r}"
        less = "" if partial else ", or --partial to begin a training with what there is"
        raise UserError(start + f"{problem}: {remedy}{less}")
    if names := relevant(report.unused):
        problem = f"the model has no place for {len(names)} of its tensors, for example {names[0]!r}"
        raise UserError(start + f"{problem}: {remedy}{'' if partial else ', or --partial to go without them'}")


def _without_broken_layers(report: LoadReport) -> LoadReport:
    """A layer goes with its weight: its bias is of no use beside another weight than it was trained with."""
    broken = report.new | report.other_shape
    kept = {name: shape for name, shape in report.loaded.items() if f"{name.rpartition('.')[0]}.weight" not in broken}
    dropped = {name: shape for name, shape in report.loaded.items() if name not in kept}
    return replace(report, loaded=kept, new=report.new | dropped)


def _metadata(source: str, file: str, config: str, opts: Sequence[str]) -> dict[str, str]:
    """What the converted file says of itself."""
    path = Path(find_config(config)).resolve()
    return {
        "vod2.config": str(path.relative_to(CONFIGS) if path.is_relative_to(CONFIGS) else path.name),
        "vod2.opts": shlex.join(opts),
        "vod2.source": os.path.basename(file),
        "vod2.source_sha256": sha256(file),
        "vod2.from": source,
    }
