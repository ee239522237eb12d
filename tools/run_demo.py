#!/usr/bin/env python3
"""The main job in one command: a single-frame detector against RDN on videos that are new to both.

The command `vod2 demo` (vod2/commands/demo.py), for a checkout: python tools/run_demo.py --help
"""

from vod2.commands.demo import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
