#!/usr/bin/env python3
"""Train or evaluate a detector of a configuration, with Detectron2's flags.

The command `vod2 train` (vod2/commands/train.py), for a checkout: python tools/train_net.py --help
"""

from vod2.commands.train import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
