#!/usr/bin/env python3
"""Weights of other code for a model of this project.

    python tools/convert_checkpoint.py --from mega RDN_R_101.pth weights/RDN_R101.safetensors
    python tools/convert_checkpoint.py --from torchvision resnet101.pth R-101.safetensors \\
        --config-file configs/FasterRCNN_R101.yaml

IN is a .pth, .pkl or .safetensors file. Code in it is not run, unless --trust-pickle says so. OUT is a .safetensors
file. The model is that of --config-file, or of the configuration that the weights are known to be of. A detector must
get all of its parameters; weights of detectron2 and torchvision are a start for training: their ResNet must be whole.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vod2.checkpoint import SOURCES, LoadReport, Target, compare, convert, default_config
from vod2.checkpoint.public_file import read_public, sha256, write_weights
from vod2.checkpoint.settings import differing
from vod2.d2 import CfgNode, build_model
from vod2.engine import cli, load_config
from vod2.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_TOLD = 8  # unused and missing tensors that are named one by one


def build_without_memory(cfg: CfgNode) -> nn.Module:
    """The model with the shapes of its parameters, but without their numbers."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def config_file(args: argparse.Namespace, names: dict) -> str:
    if args.config_file:
        return args.config_file
    known = CONFIGS / default_config(names, args.source)
    if not known.is_file():
        raise UserError(f"these weights are of {known.name}, which does not exist: give the model with --config-file")
    return os.path.relpath(known)


def require_fit(report: LoadReport, unused: Sequence[str], partial: bool) -> None:
    """Refuse what would make another model than the file's, or one with random numbers where it has to know something.

    Raises:
        UserError: if tensors are missing, of another shape or `unused`; if `partial`, only those of the ResNet count.
    """
    for name, (found, wanted) in report.other_shape.items():
        if not partial or _of_resnet(name):
            raise UserError(
                f"{report.path}: {name!r} would have the shape {found}, expected {wanted}: give the configuration that "
                "the weights are of with --config-file (classes, widths)" + (" or --partial" if not partial else "")
            )
    missing = [name for name in report.new if not partial or _of_resnet(name)]
    if missing:
        remedy = "" if partial else ", or --partial to begin a training with what there is"
        raise UserError(
            f"{report.path}: {len(missing)} of {len(report.wanted)} tensors are missing, for example {missing[0]!r}: "
            f"give the configuration that the weights are of with --config-file{remedy}"
        )
    if unused and not partial:
        raise UserError(
            f"{report.path}: the model has no place for {len(unused)} of its tensors, for example {unused[0]!r}: give "
            "the configuration that the weights are of with --config-file, or --partial to go without them"
        )


def _of_resnet(name: str) -> bool:
    return name.removeprefix("backbone.").removeprefix("bottom_up.").startswith(("stem.", "res"))


def listing(title: str, shapes: dict[str, tuple]) -> str:
    """The first of the tensors, by name and shape."""
    lines = [f"{title}:"] + [f"  {name} {tuple(shape)}" for name, shape in list(shapes.items())[:_TOLD]]
    return "\n".join(lines + [f"  and {len(shapes) - _TOLD} more"] * (len(shapes) > _TOLD))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    if not args.output.endswith(".safetensors"):
        raise UserError(f"output {args.output!r}: expected a name that ends in .safetensors")
    if os.path.exists(args.output) and not args.overwrite:
        raise UserError(f"output {args.output!r} exists: choose another name, or replace it with --overwrite")
    state = read_public(args.input, trust_pickle=args.trust_pickle)
    config = config_file(args, state)
    cfg = load_config(config, args.opts)
    model = build_without_memory(cfg)
    done = convert(state, args.source, Target.of(cfg, model))
    report = compare(model, done.state, args.input)
    unused = done.unused | report.unused
    require_fit(report, list(unused), done.partial or args.partial)
    kept = {name: done.state[name] for name in report.loaded}
    inside = Path(config).resolve()
    write_weights(
        args.output,
        kept,
        {
            "vod2.config": str(inside.relative_to(CONFIGS) if inside.is_relative_to(CONFIGS) else inside.name),
            "vod2.source": os.path.basename(args.input),
            "vod2.source_sha256": sha256(args.input),
            "vod2.from": args.source,
        },
    )
    print(done.table())
    told = {name: found for name, (found, _) in report.other_shape.items()}
    for title, shapes in (
        ("unused of the file", unused),
        ("of another shape, left out", told),
        ("missing, as the model begins", report.new),
    ):
        if shapes:
            print(listing(title, shapes))
    settings = differing(cfg, done.settings)
    if settings:
        print("These weights also need, other than the configuration has it:", shlex.join(settings))
    print(f"Wrote {args.output}: {len(kept)} of {len(report.wanted)} tensors, {100 * report.share:.1f}% of the numbers")
    purpose = [] if report.new else ["--eval-only"]
    options = shlex.join([*purpose, "MODEL.WEIGHTS", args.output, *settings, *args.opts])
    print(f"python tools/train_net.py --config-file {shlex.quote(config)} {options}")


if __name__ == "__main__":
    cli.run(main)
