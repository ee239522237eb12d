"""What a configuration is: the rows of a paper's tables, one row of them, or all keys and values; what keys mean; what
an evaluation has measured.

vod2 show configs/ablations/rdn.yaml           # its rows, and the paper's numbers
vod2 show configs/ablations/rdn.yaml:T3        # what that row is, and how it is run
vod2 show configs/ablations/rdn.yaml:T3 --full # all of its keys and values
vod2 show configs/RDN_R101.yaml
vod2 show output/rdn                           # the metrics of an evaluation, or of its results.json
vod2 show --list                               # the configurations that come with vod2
vod2 show --keys                               # all keys of vod2 and its projects: docs/config.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from vod2.commands.parsing import command_parser
from vod2.engine import load_config
from vod2.engine.config_docs import key_page
from vod2.engine.row_tables import row_description, row_listing
from vod2.engine.rows import find_row, has_rows, load_rows
from vod2.evaluation.collect import DETECTIONS_FILE
from vod2.evaluation.report import evaluation_report
from vod2.evaluation.runs import RESULTS_FILE, find_results, read_metrics, read_run
from vod2.package_files import config_names


def results_of(path: Path) -> Path | None:
    """The folder of results that `path` is, holds, or lies in as results.json; None if it is something else.

    Raises:
        UserError: a folder holds none, or those of several datasets.
    """
    if path.is_dir():
        return path if (path / RESULTS_FILE).is_file() else find_results(path)
    return path.parent if path.name == RESULTS_FILE and path.is_file() else None


def describe_results(folder: Path) -> str:
    """The tables of an evaluation; of one whose detections are not there, its metrics as they stand.

    Raises:
        UserError: results.json is missing or broken.
    """
    metrics = read_metrics(folder)
    if (folder / DETECTIONS_FILE).is_file():
        run = read_run(folder)
        return evaluation_report(metrics, run.data, run.detections)
    return tabulate(sorted(metrics.items()), headers=["metric", ""], floatfmt=".2f")


def main(words: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("config", nargs="?", metavar="FILE[:ROW]", help="a configuration, a file of rows, or results")
    parser.add_argument("--list", action="store_true", help="names of the configurations that come with vod2")
    parser.add_argument("--keys", action="store_true", help="what the keys of vod2 and its projects mean")
    parser.add_argument("--full", action="store_true", help="all keys and values of a row")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args(words)
    if [bool(args.config), args.list, args.keys].count(True) != 1:
        parser.error("expected FILE[:ROW], or --list or --keys alone")
    if args.list:
        print("\n".join(config_names()))
        return
    if args.keys:
        print(key_page(), end="")
        return
    if (results := results_of(Path(args.config))) is not None:
        print(describe_results(results))
        return
    if has_rows(args.config) and not args.full:
        print(row_listing(load_rows(args.config)), end="")
        return
    cfg = load_config(args.config, args.opts)
    row = find_row(args.config)
    print(cfg.dump() if row is None or args.full else row_description(row))
