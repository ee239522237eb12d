#!/usr/bin/env python3
"""Detect objects in an archive of videos, thousands to millions, here with several processes or on a cluster of Ray.

The command `vod2 archive` (vod2/commands/archive.py), for a checkout: python tools/detect_archive.py --help
"""

from vod2.commands.archive import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
