"""The command `vod2`: detection, training and what belongs to them, each also a file of tools/ in a checkout.

A command is a module here with a function `main`, which takes its words or those of the process. Nothing else is
imported before its command is called: the list of commands is printed at once.
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from vod2.version import __version__

_ROOM = 12  # characters of the column of names


class Command(NamedTuple):
    """What `vod2 NAME` runs.

    Attributes:
        module: in this package; it is imported when its command is called.
        summary: for the list of commands.
    """

    module: str
    summary: str


GROUPS = {
    "detection": {
        "detect": Command("detect", "objects in videos, folders of images or a camera, as video, text or page"),
        "serve": Command("serve", "a page to upload videos to, which shows their reports"),
        "archive": Command("archive", "objects in thousands to millions of videos, resumable"),
        "link": Command("link", "link the boxes of any detector, or of an evaluation, into tracks"),
    },
    "training and evaluation": {
        "train": Command("train", "train the detector of a configuration, or one on your own videos"),
        "eval": Command("evaluate", "evaluate weights on a dataset"),
        "report": Command("report", "one page of a training: metrics, curves, what is missed"),
        "compare": Command("compare", "whether one method is better than another, with intervals"),
        "check": Command("check", "find everything that is wrong with a dataset"),
    },
    "models": {
        "show": Command("show", "configurations that come with vod2, rows of papers' tables, keys"),
        "zoo": Command("zoo", "trained weights by name: the list, or download and convert"),
        "convert": Command("convert", "published weights to those of vod2"),
        "export": Command("export", "a detector as ONNX files for other runtimes"),
        "analyze": Command("analyze", "parameters, operations and time of a detector"),
        "benchmark": Command("benchmark", "time and memory of detectors, of training steps and of single parts"),
    },
    "to try it": {
        "demo": Command("demo", "a single frame against RDN on synthetic videos, in a minute"),
        "synthetic": Command("synthetic", "make synthetic videos with annotations"),
    },
}
"""{heading: {name: command}}."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def usage() -> str:
    """What `vod2 --help` prints."""
    lines = [
        "usage: vod2 COMMAND ...",
        "",
        "Video object detection: an image detector that looks at other frames, too.",
    ]
    for heading, group in GROUPS.items():
        lines += ["", f"{heading}:", *(f"  {name:{_ROOM}}{command.summary}" for name, command in group.items())]
    lines += [
        "",
        "vod2 COMMAND --help has the options and examples of a command; vod2 --version the version.",
        "",
        "  vod2 detect --config-file RDN_R101.yaml --video-input in.mp4 --output out.mp4 --opts MODEL.WEIGHTS rdn.pth",
        "",
        "Names of configurations are files, or what vod2 show --list prints.",
    ]
    return "\n".join(lines)


def only_prints() -> bool:
    """Whether this process is the command `vod2` with words that name no command: it prints something and ends.

    `import vod2` asks this before it imports anything. It errs on the side of False, where the same is only slower.
    """
    program, *words = sys.argv or [""]
    if words and words[0] in COMMANDS:
        return False
    if program == "-m":  # while Python looks for the module, whose name only the original words have
        return sys.orig_argv[-len(sys.argv)] == "vod2"
    # pip puts the command beside the interpreter. Elsewhere it may be somebody else's program, which uses vod2.
    folder, name = os.path.split(os.path.realpath(program))
    beside = folder == os.path.realpath(os.path.dirname(sys.executable or ""))
    return beside and re.fullmatch(r"vod2(-script\.py|\.exe)?", name) is not None


def main(words: Sequence[str] | None = None) -> None:
    """Run `vod2 WORDS ...`, by default those of the process; ends it with the exit code of the command."""
    words = list(sys.argv[1:] if words is None else words)
    if not words:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(f"vod2 {__version__}")
    elif name in COMMANDS:
        from vod2.engine import cli  # PyTorch, for which a list of commands need not wait

        # What the parser, the help and the messages call the program
        sys.argv = [f"vod2 {name}", *rest]
        cli.run(importlib.import_module(f"{__name__}.{COMMANDS[name].module}").main)
    else:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {similar[0]!r}?" if similar else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: vod2 has no command {name!r}: {remedy}", file=sys.stderr)
        sys.exit(2)
