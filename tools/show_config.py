#!/usr/bin/env python3
"""What a configuration is: the rows of a paper's tables, one row of them, or all keys and values; and what keys mean.

python tools/show_config.py configs/ablations/rdn.yaml           # its rows, and the paper's numbers
python tools/show_config.py configs/ablations/rdn.yaml:T3        # what that row is, and how it is run
python tools/show_config.py configs/ablations/rdn.yaml:T3 --full # all of its keys and values
python tools/show_config.py configs/RDN_R101.yaml
python tools/show_config.py --keys                               # all keys of vod2 and its projects: docs/config.md
"""

import argparse

from vod2.engine import cli, load_config
from vod2.engine.config_docs import key_page
from vod2.engine.row_tables import row_description, row_listing
from vod2.engine.rows import find_row, has_rows, load_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", metavar="FILE[:ROW]", help="a configuration, or a file of rows")
    parser.add_argument("--keys", action="store_true", help="what the keys of vod2 and its projects mean")
    parser.add_argument("--full", action="store_true", help="all keys and values of a row")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args()
    # Either of the two, and not both.
    if args.keys == bool(args.config):
        parser.error("expected FILE[:ROW], or --keys alone")
    if args.keys:
        print(key_page(), end="")
        return
    if has_rows(args.config) and not args.full:
        print(row_listing(load_rows(args.config)), end="")
        return
    cfg = load_config(args.config, args.opts)
    row = find_row(args.config)
    print(cfg.dump() if row is None or args.full else row_description(row))


if __name__ == "__main__":
    cli.run(main)
