#!/usr/bin/env python3
"""Find everything that is wrong with a dataset, before training does.

The command `vod2 check` (vod2/commands/check.py), for a checkout: python tools/check_dataset.py --help
"""

from vod2.commands.check import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
