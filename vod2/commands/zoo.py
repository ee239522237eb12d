"""Models with trained weights, which come with vod2 or which others have published: list them, or fetch one.

    vod2 zoo
    vod2 zoo SELSA_R101_mmtracking

A name downloads its weights, checks and converts them, and prints where they are and how to run them. They are kept in
$FVCORE_CACHE (by default ~/.torch/iopath_cache). Without network, the message says which file to put where.
"""

import argparse
import shlex

from tabulate import tabulate

from vod2.checkpoint.sources.published import PUBLISHED
from vod2.commands.parsing import command_parser
from vod2.engine.zoo import cached_weights, require_published, stem_of, trained_weights
from vod2.package_files import command_line, shipped_weights

_HEADERS = ["name", "also called", "mAP (theirs)", "licence of the code", "page", "here"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the model to fetch (default: list all)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.name is None:
        shipped = [[name, path] for name, path in shipped_weights().items()]
        print(tabulate(shipped, headers=["comes with vod2", "file"]), end="\n\n")
        rows = [
            [model.name, model.alias, model.ap50, model.license, model.page, "yes" if cached_weights(model) else ""]
            for model in PUBLISHED
        ]
        print(tabulate(rows, headers=_HEADERS, floatfmt=".1f"))
        print("mAP on ImageNet VID, which has terms of its own for what is trained on it. Not measured here.")
        return
    weights = trained_weights(args.name)
    name = stem_of(args.name)
    config = f"{name}.yaml"
    if name not in shipped_weights():
        model = require_published(args.name)
        name, config = model.name, model.config
    print(f"{name}: {weights}")
    options = f"--config-file {config} --video-input in.mp4 --output out.mp4"
    print(f"{command_line('detect')} {options} --opts MODEL.WEIGHTS {shlex.quote(weights)}")
