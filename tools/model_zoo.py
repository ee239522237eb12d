#!/usr/bin/env python3
"""Models whose weights others have published: list them, or fetch one.

The command `vod2 zoo` (vod2/commands/zoo.py), for a checkout: python tools/model_zoo.py --help
"""

from vod2.commands.zoo import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
