#!/usr/bin/env python3
"""Make a synthetic set in ImageNet's layout: a size of the benchmark VOD-Synth 1, or a quick set of easy videos.

The command `vod2 synthetic` (vod2/commands/synthetic.py), for a checkout: python tools/make_synthetic.py --help
"""

from vod2.commands.synthetic import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
