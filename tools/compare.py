#!/usr/bin/env python3
"""Is one method better than another? Differences with their intervals, by a paired bootstrap over videos.

The command `vod2 compare` (vod2/commands/compare.py), for a checkout: python tools/compare.py --help
"""

from vod2.commands.compare import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
