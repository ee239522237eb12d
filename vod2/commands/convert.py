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

from vod2.checkpoint import SOURCES, default_config
from vod2.checkpoint.public_file import read_public, require_writable
from vod2.commands.parsing import command_parser
from vod2.engine.conversion import convert_file
from vod2.errors import UserError
from vod2.package_files import CONFIGS, command_line, find_config


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
    converted = convert_file(state, args.source, args.input, args.output, config, args.opts, args.partial)
    report, conversion = converted.report, converted.conversion
    print(conversion.table())
    is_complete = not report.new and not report.other_shape
    if report.unused or not is_complete:
        print(f"\nNot all of it fits; what is new or of another shape stays as the model begins:\n{report.table()}\n")
    settings = converted.settings
    if settings:
        print("These weights also need, other than the configuration has it:", shlex.join(settings))
    loaded = f"{len(report.loaded)} of {len(report.wanted)} tensors, {report.percent}% of the numbers"
    print(f"Wrote {args.output}: {loaded}")
    conventions = SOURCES[args.source]
    # A detector that has all of its weights can be evaluated; a flow network alone, or a part, is a start for training.
    first = ["--eval-only"] if is_complete and conventions.network is None else []
    options = shlex.join([*first, conventions.key, args.output, *args.opts, *settings])
    print(f"{command_line('train')} --config-file {shlex.quote(config)} {options}")
