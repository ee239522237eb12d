#!/usr/bin/env python3
"""What a frame of a running stream costs: parameters and operations of a detector by part, and its time.

The command `vod2 analyze` (vod2/commands/analyze.py), for a checkout: python tools/analyze_model.py --help
"""

from vod2.commands.analyze import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
