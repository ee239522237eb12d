#!/usr/bin/env python3
"""Detect objects in videos or in the pictures of a camera: draws them, and writes them as text if asked.

The command `vod2 detect` (vod2/commands/detect.py), for a checkout: python tools/demo.py --help
"""

from vod2.commands.detect import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
