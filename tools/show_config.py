#!/usr/bin/env python3
"""What a configuration is: the rows of a paper's tables, one row of them, or all keys and values; and what keys mean.

The command `vod2 show` (vod2/commands/show.py), for a checkout: python tools/show_config.py --help
"""

from vod2.commands.show import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
