"""What a frame of a running stream costs: parameters and operations of a detector by part, and its time.

vod2 analyze --config-file configs/RDN_R101.yaml

Or the rows of a paper's tables beside what it prints; without numbers, of all tables that print a cost:

vod2 analyze --table configs/ablations/rdn.yaml 4 6 7
vod2 analyze --table configs/ablations/lsts.yaml --no-time --size 300 500

No weights are needed. Times are of this machine, of the network alone (reading, resizing and linking left out), with as
many boxes for NMS as there can be: compare them with each other.
"""

import argparse

import torch
from tabulate import tabulate

from vod2.commands.parsing import command_parser
from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.engine.analysis import analyze, frame_seconds
from vod2.engine.registration import add_register_option
from vod2.engine.row_costs import CostMeter, cost_table, tables_of
from vod2.engine.rows import load_rows
from vod2.temporal import build_support_schedule


def print_detector(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    size = tuple(args.size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST))
    model, schedule = build_model(cfg), build_support_schedule(cfg)
    table = [
        [row.part, f"{row.parameters / 1e6:.3f}", f"{row.trainable / 1e6:.3f}", f"{row.flops / 1e9:.2f}"]
        for row in analyze(model, schedule, size)
    ]
    headers = ["part", "parameters (M)", "trainable (M)", "GFLOP / frame"]
    print(f"{args.config_file}, {size[0]} x {size[1]} pixels, 2 operations per multiply-add")
    print(tabulate(table, headers=headers, disable_numparse=True, colalign=("left", "right", "right", "right")))
    if not args.no_time:
        print(f"{1000 * frame_seconds(model, schedule, size):.1f} ms a frame on {machine(cfg.MODEL.DEVICE)}")


def tables(args: argparse.Namespace) -> None:
    file, *names = args.table
    rows = load_rows(file)
    titles = tables_of(rows, names)
    # None leaves it to the configuration of each row.
    size = tuple(args.size) if args.size else None
    # Where there is no GPU, a configuration falls back to the CPU with a warning.
    device = load_config("", args.opts).MODEL.DEVICE
    opts = [*args.opts, "MODEL.DEVICE", device]  # so that a missing GPU is told once
    meter = CostMeter(size, not args.no_time, opts, progress=lambda line: print(f"... {line}", flush=True))
    pixels = " x ".join(map(str, size)) if size else "INPUT.MIN_SIZE_TEST x MAX_SIZE_TEST"
    time = "" if args.no_time else f"; ms a frame on {machine(device)}"
    for title in titles:
        table_rows = rows.of(title)
        costs = [meter.measure(row) for row in table_rows]
        print(f"\n{title}: {rows.tables[title]}\n{pixels} pixels, 2 operations per multiply-add{time}\n")
        print(cost_table(table_rows, costs), flush=True)


def machine(device: str) -> str:
    gpu = device.startswith("cuda")
    return torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"


def main(words: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add_register_option(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config-file", metavar="FILE[:ROW]", help="the configuration of the model")
    source.add_argument("--table", nargs="+", metavar=("FILE", "TABLE"), help="a file of rows, and which of its tables")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="resized image (default INPUT.MIN/MAX_SIZE_TEST)"
    )
    parser.add_argument("--no-time", action="store_true", help="parameters and operations only, which is faster")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args(words)
    if args.table:
        tables(args)
    else:
        print_detector(args)
