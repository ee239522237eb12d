#!/usr/bin/env python3
"""A detector with its weights as graphs for other runtimes: ONNX files, or PyTorch's .pt2.

The command `vod2 export` (vod2/commands/export.py), for a checkout: python tools/export_model.py --help
"""

from vod2.commands.export import main
from vod2.engine import cli

if __name__ == "__main__":
    cli.run(main)
