#!/usr/bin/env python3
"""Parameters and operations of a detector by part, for one frame of a running stream.

python tools/analyze_model.py --config-file configs/RDN_R101.yaml
"""

import argparse

from tabulate import tabulate

from vod2.d2 import build_model
from vod2.engine import cli, load_config
from vod2.engine.analysis import analyze
from vod2.temporal import build_support_schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="resized image (default INPUT.MIN/MAX_SIZE_TEST)"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    size = tuple(args.size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST))
    rows = analyze(build_model(cfg), build_support_schedule(cfg), size)
    table = [
        [row.part, f"{row.parameters / 1e6:.3f}", f"{row.trainable / 1e6:.3f}", f"{row.flops / 1e9:.2f}"]
        for row in rows
    ]
    headers = ["part", "parameters (M)", "trainable (M)", "GFLOP / frame"]
    print(f"{args.config_file}, {size[0]} x {size[1]} pixels, 2 operations per multiply-add")
    print(tabulate(table, headers=headers, disable_numparse=True, colalign=("left", "right", "right", "right")))


if __name__ == "__main__":
    cli.run(main)
