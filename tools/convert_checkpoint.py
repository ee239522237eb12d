#!/usr/bin/env python3
"""Weights of other code for a model of this project.

The command `vod2 convert` (vod2/commands/convert.py), for a checkout: python tools/convert_checkpoint.py --help
"""

from vod2.commands.convert import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
