"""Weights of other code for a model of this project.

    vod2 convert --from mega RDN_R_101.pth weights/RDN_R101.safetensors
    vod2 convert --from torchvision resnet101.pth R-101.safetensors \\
        --config-file configs/FasterRCNN_R101.yaml

IN is a .pth, .pkl or .safetensors file. Code in it is not run, unless --trust-pickle says so. OUT is a .safetensors
file. The model is that of --config-file, or of the configuration that the weights are known to be of. A detector must
get all of its parameters; weights of detectron2 and torchvision are a start for training: their ResNet must be that of
the model. Of flownets only the flow network is filled (MODEL.FLOWNET.WEIGHTS).
"""

import argparse
import os
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vod2.checkpoint import SOURCES, LoadReport, Target, compare, convert, default_config
from vod2.checkpoint.public_file import read_public, require_writable, sha256, write_weights
from vod2.checkpoint.settings import differing
from vod2.checkpoint.sources import of_resnet
from vod2.commands.parsing import command_parser
from vod2.d2 import CfgNode, build_model
from vod2.engine import load_config
from vod2.errors import UserError
from vod2.package_files import CONFIGS, command_line, find_config


def build_without_memory(cfg: CfgNode, source: str) -> nn.Module:
    """What is to be filled, with the shapes of its parameters, but without their numbers."""
    cfg = cfg.clone()
    # On "meta" a tensor has a shape but no memory: the weights come from the file.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return (SOURCES[source].network or build_model)(cfg)


def config_file(args: argparse.Namespace, names: dict) -> str:
    if args.config_file:
        return args.config_file
    default = CONFIGS / default_config(names, args.source)
    if not default.is_file():
        raise UserError(f"these weights are of {default.name}, which does not exist: give the model with --config-file")
    # As somebody would type it: the path is part of the command that is printed at the end.
    name = os.path.join("configs", default.relative_to(CONFIGS))
    return name if os.path.samefile(find_config(name), default) else os.path.relpath(default)


def require_output(args: argparse.Namespace) -> None:
    """Refuse what cannot be written, or would replace what is not meant to be, before the work is done."""
    output = args.output
    if not output.endswith(".safetensors"):
        raise UserError(f"output {output!r}: expected a name that ends in .safetensors")
    if os.path.exists(output) and os.path.exists(args.input) and os.path.samefile(output, args.input):
        raise UserError(f"output {output!r} is the file to convert, which would be lost: choose another name")
    if os.path.exists(output) and not args.overwrite:
        raise UserError(f"output {output!r} exists: choose another name, or replace it with --overwrite")
    folder = require_writable(output)
    if folder:
        print(f"The folder {folder} does not exist: it will be made")


def require_fit(report: LoadReport, partial: bool) -> None:
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


def without_broken_layers(report: LoadReport) -> LoadReport:
    """A layer goes with its weight: its bias is of no use beside another weight than it was trained with."""
    broken = report.new | report.other_shape
    kept = {name: shape for name, shape in report.loaded.items() if f"{name.rpartition('.')[0]}.weight" not in broken}
    dropped = {name: shape for name, shape in report.loaded.items() if name not in kept}
    return replace(report, loaded=kept, new=report.new | dropped)


def metadata(args: argparse.Namespace, config: str) -> dict[str, str]:
    """What the file says of itself."""
    path = Path(find_config(config)).resolve()
    return {
        "vod2.config": str(path.relative_to(CONFIGS) if path.is_relative_to(CONFIGS) else path.name),
        "vod2.opts": shlex.join(args.opts),
        "vod2.source": os.path.basename(args.input),
        "vod2.source_sha256": sha256(args.input),
        "vod2.from": args.source,
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("--from", required=True, dest="source", choices=sorted(SOURCES), help="whose weights they are")
    parser.add_argument("input", metavar="IN", help="the file to convert")
    parser.add_argument("output", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument("--config-file", default="", metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--partial", action="store_true", help="parts of the model may be missing, not the ResNet")
    parser.add_argument("--overwrite", action="store_true", help="OUT may exist")
    parser.add_argument("--trust-pickle", action="store_true", help="run the code that IN may contain")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    require_output(args)
    # All that can be refused cheaply has been, before the file is read.
    state = read_public(args.input, trust_pickle=args.trust_pickle)
    config = config_file(args, state)
    cfg = load_config(config, args.opts)
    model = build_without_memory(cfg, args.source)
    conversion = convert(state, args.source, Target.of(cfg, model))
    report = compare(model, conversion.state, args.input)
    report = replace(report, unused=conversion.unused | report.unused)
    require_fit(report, conversion.partial or args.partial)
    report = without_broken_layers(report)
    write_weights(args.output, {name: conversion.state[name] for name in report.loaded}, metadata(args, config))
    print(conversion.table())
    is_complete = not report.new and not report.other_shape
    if report.unused or not is_complete:
        print(f"\nNot all of it fits; what is new or of another shape stays as the model begins:\n{report.table()}\n")
    settings = differing(cfg, conversion.settings)
    if settings:
        print("These weights also need, other than the configuration has it:", shlex.join(settings))
    loaded = f"{len(report.loaded)} of {len(report.wanted)} tensors, {report.percent}% of the numbers"
    print(f"Wrote {args.output}: {loaded}")
    conventions = SOURCES[args.source]
    # A detector that has all of its weights can be evaluated; a flow network alone, or a part, is a start for training.
    first = ["--eval-only"] if is_complete and conventions.network is None else []
    options = shlex.join([*first, conventions.key, args.output, *args.opts, *settings])
    print(f"{command_line('train')} --config-file {shlex.quote(config)} {options}")
