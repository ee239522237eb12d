"""docs/config.md: the keys that vod2 and its projects add to Detectron2's, from the code that adds and reads them."""

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vod2.d2 import CfgNode, get_cfg
from vod2.engine.config_readers import find_readers
from vod2.errors import UserError
from vod2.keys import EXTENSIONS, leaves, when_read

HEAD = """# Configuration keys

<!-- What `python tools/show_config.py --keys` prints, from the comments beside the keys. -->

The keys that vod2 (`vod2/config.py`) and its projects (`projects/*/config.py`) add to Detectron2's, each with its
default, its meaning, and the classes and functions that read it. A value is set in a YAML file, which may name another
as its `_BASE_`, or at the end of a command line, after its name.

**Two roots.** `VIDEO` says what a frame looks at: the schedules, which choose frames for the loaders and the streams,
and have no weights. `MODEL.VIDEO` says what is made of these frames: the layers of the three levels, which a checkpoint
must fit. So the same weights run with any `VIDEO.TEST_SCHEDULE`, and `MODEL` alone describes the detector.

**Keys without effect.** A key that the chosen schedule or linker does not read is an error if it is not at its default.
Other keys that depend on the value of another one say "read when": the log of a training or an evaluation begins with a
warning that lists those that are set and not read.
"""


class Comment(NamedTuple):
    """What a function that adds keys says of a key or node.

    Attributes:
        text: the comment beside it in one line, "" for none.
        place: file and line of the definition.
    """

    text: str
    place: str


def key_page(extensions: Iterable[Callable[[CfgNode], None]] = EXTENSIONS) -> str:
    """The page in Markdown: a table for each node.

    Args:
        extensions: the functions that add the keys.

    Raises:
        UserError: for a key that has no comment, or that nothing reads; says where it is defined.
    """
    comments = {key: comment for add_keys in extensions for key, comment in comments_of(add_keys)}
    defaults = added_keys(extensions)
    readers = find_readers(defaults)
    for key in defaults:
        if key not in comments or not comments[key].text:
            place = comments[key].place if key in comments else "the function that adds it"
            raise UserError(f"{key} has no meaning: write a comment beside it in {place}")
        if not readers[key]:
            raise UserError(f"{key} ({comments[key].place}) is read by nothing: remove it, or read it as cfg.{key}")
    # A dict keeps the order in which keys were added, the order of the page
    nodes = dict.fromkeys(key.rpartition(".")[0] for key in defaults)
    parts = [HEAD]
    for node in nodes:
        parts.append(f"\n## {node}\n")
        if introduction := _introduction(node, comments):
            parts.append(f"\n{introduction}\n")
        parts.append("\n| key | default | meaning | read by |\n|---|---|---|---|\n")
        for key in (key for key in defaults if key.rpartition(".")[0] == node):
            meaning = _sentence(comments[key].text) + _condition(key)
            cells = (
                f"`{key}`",
                f"`{_shown(defaults[key])}`",
                meaning,
                ", ".join(f"`{reader}`" for reader in readers[key]),
            )
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(parts)


def added_keys(extensions: Iterable[Callable[[CfgNode], None]] = EXTENSIONS) -> dict[str, Any]:
    """{key: default} of all keys that the functions add to Detectron2's, in the order in which they do."""
    cfg = get_cfg()
    detectron2_keys = {key for key, _ in leaves(cfg)}
    added: dict[str, Any] = {}
    for add_keys in extensions:
        add_keys(cfg)
        # Keys of earlier functions, too, because all of them are in `cfg` by now
        seen = detectron2_keys | added.keys()
        added |= {key: value for key, value in leaves(cfg) if key not in seen}
    return added


def comments_of(add_keys: Callable[[CfgNode], None]) -> Iterator[tuple[str, Comment]]:
    """(key or node, its comment) for all assignments to `cfg` in a function that adds keys.

    A comment stands in the lines above the assignment, at the end of its line, or in both places.
    """
    lines, first = inspect.getsourcelines(add_keys)
    source = textwrap.dedent("".join(lines))
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    comments = _comments_by_line(source)
    nodes = {function.args.args[0].arg: ""}  # {variable: the node that it stands for}
    for statement in function.body:
        if not isinstance(statement, ast.Assign):
            continue
        # `train = cfg.VIDEO.TRAIN_SCHEDULE = CfgNode()` has two targets: a name, and the node that it stands for
        paths = [path for target in statement.targets if (path := _path_of(target, nodes))]
        for target in statement.targets:
            if isinstance(target, ast.Name) and paths:
                nodes[target.id] = paths[0]
        above: list[str] = []
        line = statement.lineno - 1
        # A comment at the end of a line belongs to the key of that line
        while line in comments and comments[line].alone:
            above.insert(0, comments[line].text)
            line -= 1
        behind = [comments[statement.end_lineno].text] if statement.end_lineno in comments else []
        place = f"{inspect.getsourcefile(add_keys)}:{first + statement.lineno - 1}"
        for path in paths:
            yield path, Comment(" ".join([*above, *behind]), place)


class _Line(NamedTuple):
    text: str  # of the comment
    alone: bool  # there is nothing else on the line


def _comments_by_line(source: str) -> dict[int, _Line]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: _Line(token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _path_of(target: ast.expr, nodes: dict[str, str]) -> str | None:
    """`cfg.MODEL.RDN` -> "MODEL.RDN"; None for what is not below the configuration."""
    names: list[str] = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    if not names or not isinstance(target, ast.Name) or target.id not in nodes:
        return None
    return ".".join(filter(None, [nodes[target.id], *names]))


def _introduction(node: str, comments: dict[str, Comment]) -> str:
    text = _sentence(comments[node].text) if node in comments and comments[node].text else ""
    return (text + _condition(node)).strip()


def _condition(key: str) -> str:
    return f" Read when {condition}." if (condition := when_read(key)) else ""


def _sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _shown(value: Any) -> str:
    """A default as it is written in YAML."""
    return json.dumps(value) if isinstance(value, str) else str(value)
