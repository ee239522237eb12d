"""Models whose weights others have published: list them, or fetch one.

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
from vod2.engine.zoo import cached_weights, published_weights, require_published
from vod2.package_files import command_line

_HEADERS = ["name", "also called", "mAP (theirs)", "licence of the code", "page", "here"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the model to fetch (default: list all)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.name is None:
        rows = [
            [model.name, model.alias, model.ap50, model.license, model.page, "yes" if cached_weights(model) else ""]
            for model in PUBLISHED
        ]
        print(tabulate(rows, headers=_HEADERS, floatfmt=".1f"))
        print("mAP on ImageNet VID, which has terms of its own for what is trained on it. Not measured here.")
        return
    model = require_published(args.name)
    weights = published_weights(args.name)
    print(f"{model.name}: {weights}")
    options = f"--config-file {model.config} --video-input in.mp4 --output out.mp4"
    print(f"{command_line('detect')} {options} --opts MODEL.WEIGHTS {shlex.quote(weights)}")
