"""Parsers of the commands, which call themselves as they were called: `vod2 detect`, or tools/demo.py in a checkout."""

import argparse
import os
import re
import sys

from vod2.package_files import TOOLS, command_line

_CALL = re.compile(rf"\bvod2 ({'|'.join(TOOLS)})\b")


def described(text: str | None) -> str:
    """A description in which commands are named as `command_line` says."""
    return _CALL.sub(lambda found: command_line(found[1]), text or "")


def command_parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with a description, laid out as it is."""
    return argparse.ArgumentParser(
        prog=os.path.basename(sys.argv[0]),
        description=described(text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
