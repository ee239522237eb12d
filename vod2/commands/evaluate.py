"""Evaluate the weights of a configuration on its test datasets, with Detectron2's flags.

vod2 eval --config-file configs/RDN_R101.yaml MODEL.WEIGHTS rdn.pth
vod2 eval --config-file configs/ablations/rdn.yaml:K100   # a row of a paper's table; vod2 show lists them

Whether it looks at other frames at all: without them, and with those of another video (docs/ablations.md).

vod2 eval --config-file configs/RDN_R101.yaml --context none MODEL.WEIGHTS rdn.pth
vod2 eval --config-file configs/RDN_R101.yaml --context foreign MODEL.WEIGHTS rdn.pth
"""

from collections.abc import Sequence

from vod2.commands.train import run, training_parser


def main(words: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__)
    parser.set_defaults(eval_only=True)
    run(parser.parse_args(words))
