"""Train a detector of a configuration, with Detectron2's flags.

vod2 train --config-file configs/RDN_R101.yaml --num-gpus 4
vod2 train --config-file configs/ablations/rdn.yaml:Nb1 --num-gpus 4   # a row of a paper's table; vod2 show lists them
vod2 train --config-file configs/RDN_R101.yaml --resume                # goes on from the last checkpoint

Your own annotated videos, without a configuration or code (docs/getting_started.md):

vod2 train --data path/to/mine
vod2 train --data path/to/mine --iterations 3000 --output output/mine

Evaluation:

vod2 eval --config-file configs/RDN_R101.yaml MODEL.WEIGHTS rdn.pth
vod2 eval --config-file configs/ablations/rdn.yaml:K100

Whether it looks at other frames at all: without them, and with those of another video (docs/ablations.md).

vod2 eval --config-file configs/RDN_R101.yaml --context none MODEL.WEIGHTS rdn.pth
vod2 eval --config-file configs/RDN_R101.yaml --context foreign MODEL.WEIGHTS rdn.pth
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from vod2.checkpoint import load_weights, require_weights
from vod2.commands.parsing import described
from vod2.commands.train_data import add_data_options, refuse_data_options, train_on_data
from vod2.d2 import CfgNode, build_model, comm, default_argument_parser, verify_results
from vod2.data import CONTEXTS
from vod2.data.datasets.readings import reading_once
from vod2.engine import VideoTrainer, check_evaluation, load_config, setup
from vod2.engine.class_names import require_same_names
from vod2.engine.config_values import building
from vod2.engine.launch import launch_processes
from vod2.engine.machines import output_for_training
from vod2.engine.registration import add_register_option
from vod2.engine.rows import config_name, find_test_setting
from vod2.errors import UserError


def work(cfg: CfgNode, args: argparse.Namespace) -> dict:
    """Run in every process; returns the metrics of the last evaluation."""
    if args.eval_only:
        return evaluate(cfg, args)
    # Before config.yaml of another training is replaced
    with output_for_training(cfg.OUTPUT_DIR) if comm.is_main_process() else nullcontext():
        setup(cfg, args)
        trainer = VideoTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


@reading_once()  # for the check and the test, which forgets
def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict:
    """Evaluate the weights of the configuration, in every process."""
    setup(cfg, args)
    with building(cfg):
        model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    check_evaluation(cfg)
    require_same_names(cfg, cfg.DATASETS.TEST)
    results = VideoTrainer.test(cfg, model)
    if comm.is_main_process() and cfg.TEST.CONTEXT == "own":  # what the configuration expects is said of that
        verify_results(cfg, results)
    return results


def training_parser(text: str | None) -> argparse.ArgumentParser:
    """The options of `vod2 train` and `vod2 eval`, with the examples of one of them."""
    parser = default_argument_parser(described(text))
    parser.prog = os.path.basename(sys.argv[0])
    add_register_option(parser)
    parser.add_argument(
        "--context", choices=CONTEXTS, help="with --eval-only, what a frame looks at: sets TEST.CONTEXT"
    )
    parser.set_defaults(dist_url="auto")  # Detectron2's is one port for all jobs of a user
    return parser


def main(words: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__)
    add_data_options(parser)
    args = parser.parse_args(words)
    if args.data is not None:
        train_on_data(args)
        return
    refuse_data_options(args)
    run(args)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate as the options say, in as many processes as they ask for."""
    if args.context and not args.eval_only:
        raise UserError("--context is for evaluation: give --eval-only, too, or leave it out")
    cfg = load_config(args.config_file, args.opts)  # a mistake is told once, before any process starts
    if args.context:
        cfg.TEST.CONTEXT = args.context
    if args.eval_only:
        require_weights(cfg.MODEL.WEIGHTS)
    elif args.config_file and "MODEL.WEIGHTS" not in args.opts and (row := find_test_setting(args.config_file)):
        remedy = "give --eval-only, or, to train it anew, MODEL.WEIGHTS to begin with"
        raise UserError(f"{row} is {config_name(row.base)} with other settings in inference: {remedy}")
    launch_processes(work, cfg, args)
