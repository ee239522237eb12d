"""What a Markdown file says: its fences, commands, links, anchors and the configuration keys that it names."""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from vod2.commands import COMMANDS
from vod2.config import add_video_config
from vod2.d2 import CfgNode, get_cfg

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
# An indented block is code: in a list its lines are indented by six spaces, elsewhere by four.
_INDENTED = re.compile(r"(?:^\n|\A)((?:^ {4,}\S.*\n)+)", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_KEY = re.compile(r"(?<![\w./<-])[A-Z][A-Z0-9_]+(?:\.[A-Z][A-Z0-9_]+)+\*?(?![\w/(])")


def documents() -> list[Path]:
    """Every Markdown file of the project; what is downloaded or written beside it is not looked at."""
    patterns = (
        "*.md",
        ".github/**/*.md",
        "docs/**/*.md",
        "projects/**/*.md",
        "datasets/*.md",
        "vod2/**/*.md",
        "tools/**/*.md",
    )
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


@dataclass(frozen=True)
class Fence:
    """A block between two lines of three backticks."""

    language: str
    body: str


def fences(text: str) -> list[Fence]:
    return [Fence(language, body) for language, body in _FENCE.findall(text)]


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks; a line break in it is a space."""
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))]


def block_lines(text: str) -> list[str]:
    """The lines of all blocks, continued ones in one."""
    blocks = [fence.body for fence in fences(text) if fence.language != "python"]
    blocks += _INDENTED.findall(_FENCE.sub("", text))
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@dataclass(frozen=True)
class Command:
    """A call of one of the project's programs.

    Attributes:
        program: path of the script, relative to the project, the name of a module after -m, or "vod2 COMMAND".
        words: its arguments; "..." stands for arguments that are left out.
        remark: what follows as a comment of the shell.
        is_whole: it can be called like this; false for an option that is named with its program, such as
            `tools/demo.py --compare` in a sentence.
    """

    program: str
    words: tuple[str, ...]
    remark: str
    is_whole: bool

    def __str__(self) -> str:
        return " ".join((self.program, *self.words))


def commands(text: str) -> list[Command]:
    """The calls in blocks and between backticks. Names of scripts without arguments are paths, not calls."""
    found = [_command(line) for line in block_lines(text)]
    found += [_command(span) for span in spans(text) if " " in span]
    return [command for command in found if command is not None]


def _command(line: str) -> Command | None:
    line, _, remark = line.partition(" #")
    match = (
        re.match(r"(?:python )?((?:tools|datasets)/\w+\.py)( .*|$)", line)
        or re.match(r"python -m (vod2\.\S+)(.*)", line)
        or re.match(rf"(?:python -m )?(vod2 (?:{'|'.join(COMMANDS)}))( .*|$)", line)
    )
    if match is None:
        return None
    words = tuple(shlex.split(match[2]))
    if match[1].startswith("vod2 ") and not words:  # a mention
        return None
    names_an_option = (
        match[1].endswith(".py") and not line.startswith("python") and len(words) == 1 and words[0].startswith("--")
    )
    return Command(match[1], words, remark, not names_an_option)


class _ParserBuilt(Exception):
    """Carries the parser of a program out of it."""


@cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """The argument parser that a program builds; the program itself does not run."""
    if program.endswith(".py"):
        path = ROOT / program
        spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
            spec.loader.exec_module(module)
    elif program.startswith("vod2 "):
        module = importlib.import_module(f"vod2.commands.{COMMANDS[program.removeprefix('vod2 ')].module}")
    else:
        module = importlib.import_module(program)

    def stop(parser, *_):
        raise _ParserBuilt(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            module.main()
        except _ParserBuilt as built:
            return built.args[0]
    raise AssertionError(f"{program} parses no arguments")


@cache
def options_of(program: str) -> frozenset[str]:
    """The options of a program and of its sub-commands."""
    parsers, options = [parser_of(program)], set()
    for parser in parsers:
        options |= parser._option_string_actions.keys()
        commands = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parsers += (command for action in commands for command in action.choices.values())
    return frozenset(options)


def tables(text: str) -> list[list[str]]:
    """The lines of each table; every line that begins with a bar belongs to one."""
    blocks = re.findall(r"(?:^\|.*(?:\n|\Z))+", _FENCE.sub("", text), flags=re.MULTILINE)
    return [block.splitlines() for block in blocks]


def cells(line: str) -> list[str]:
    """The cells of one line of a table; bars in backticks and after a backslash do not end one."""
    hidden = re.sub(r"`[^`]*`|\\\|", lambda found: found[0].replace("|", "\0"), line.strip())
    return [cell.strip().replace("\0", "|") for cell in hidden[1:-1].split("|")]


def links(text: str) -> list[str]:
    """Targets of links and pictures to files of the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text))
    return [target for target in targets if not re.match(r"\w+://", target)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+?) *$", _FENCE.sub("", text), flags=re.MULTILINE)
    slugs: set[str] = set()
    for heading in headings:
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in slugs:
            number += 1
        slugs.add(name)
    return slugs


def dotted_keys(text: str) -> list[str]:
    """What looks like a configuration key of two and more parts, such as SOLVER.MAX_ITER."""
    text = "".join(part for part in re.split(r"(^ *```python\n.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)[::2])
    return _KEY.findall(text)


def is_prefix(pattern: str, key: str) -> bool:
    """Whether a pattern such as SOLVER.WARMUP_* stands for the key."""
    return pattern.endswith("*") and key.startswith(pattern[:-1])


def single_keys(text: str) -> list[str]:
    """Words of capitals that open a span of backticks, such as `SKIP "initial"`."""
    words = (re.match(r"[A-Z][A-Z0-9_]{2,}(?=$| )", span) for span in spans(text))
    return [word[0] for word in words if word is not None]


@cache
def configuration_keys() -> frozenset[str]:
    """All keys and nodes of the configuration, and what is left of them without their first parts."""

    def walk(node: CfgNode, prefix: str):
        for name, value in node.items():
            yield f"{prefix}{name}"
            if isinstance(value, CfgNode):
                yield from walk(value, f"{prefix}{name}.")

    full = walk(add_video_config(get_cfg()), "")
    return frozenset(".".join(key.split(".")[start:]) for key in full for start in range(key.count(".") + 1))
