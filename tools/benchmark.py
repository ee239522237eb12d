#!/usr/bin/env python3
"""Speed: of whole detectors, of their training steps, and of single parts beside the plain way of doing the same.

The command `vod2 benchmark` (vod2/commands/benchmark.py), for a checkout: python tools/benchmark.py --help
"""

from vod2.commands.benchmark import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
