#!/usr/bin/env python3
"""The main job in one command: make a synthetic set, train a single-frame detector and RDN on it, compare them.

The command `vod2 demo` (vod2/commands/demo.py), for a checkout: python tools/run_demo.py --help
"""

from vod2.commands.demo import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
