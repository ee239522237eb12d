#!/usr/bin/env python3
"""Link the boxes of an evaluation over time, and evaluate them again.

The command `vod2 link` (vod2/commands/link.py), for a checkout: python tools/link_boxes.py --help
"""

from vod2.commands.link import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
