#!/usr/bin/env python3
"""A page to try a detector: upload a video, watch its progress, see the report.

The command `vod2 serve` (vod2/commands/serve.py), for a checkout: python tools/serve.py --help
"""

from vod2.commands.serve import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
