#!/usr/bin/env python3
"""`vod2 report` of a checkout: one page of a training and its evaluation."""

from vod2.commands.report import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
