"""Who reads a configuration key: the classes and functions of vod2 and its projects, found in their source.

A reader is a place that evaluates `cfg.<KEY>`, where `cfg` is the name of a variable, argument or attribute; perhaps
by a name for a node (`node = cfg.MODEL.RDN`, then `node.ADVANCED` or `node["ADVANCED"]`). Components that are built of
the keys that they declare (`vod2.keys.BuiltOfKeys`) are readers of these.
"""

import ast
import functools
import inspect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vod2 import keys
from vod2.keys import EXTENSIONS, BuiltOfKeys

_Path = tuple[str, ...]  # ("MODEL", "RDN"); () is the configuration itself


def find_readers(wanted: Iterable[str]) -> dict[str, list[str]]:
    """{key: names of the classes and functions that read it, sorted}; those that nobody reads have an empty list.

    A method counts as its class, a function within a function as the outer one.
    """
    readers: dict[str, set[str]] = defaultdict(set)
    for read, reader in itertools.chain.from_iterable(_readings_of_file(path) for path in source_files()):
        names = read.split(".")  # perhaps with a method behind the key, as in cfg.VIDEO.TEST_SCHEDULE.NAME.split
        for length in range(1, len(names) + 1):
            readers[".".join(names[:length])].add(reader)
    for kind in _subclasses(BuiltOfKeys):
        # Includes vod2.projects.*; subclasses in tests and user code do not belong on the page
        if kind.__module__.split(".")[0] == "vod2":
            for key in (kind.reads or {}).values():
                readers[f"{kind.node}.{key}"].add(kind.__name__)
    return {key: sorted(readers[key]) for key in wanted}


def source_files() -> list[Path]:
    """The files of vod2 and of the projects that add keys, without the stand-in for Detectron2 and the command line.

    The files that define the keys are not among them.
    """
    definitions = {Path(inspect.getfile(add_keys)).resolve() for add_keys in EXTENSIONS}
    roots = {Path(keys.__file__).resolve().parent, *(path.parent for path in definitions)}
    files = {path for root in roots for path in root.rglob("*.py")}
    files = {path for path in files if not {"_d2lite", "commands"}.intersection(path.parts)}
    # Defining a key is not reading it, even where the definition mentions its node
    return sorted(files - definitions)


@functools.cache
def _readings_of_file(path: Path) -> tuple[tuple[str, str], ...]:
    return tuple(readings(path.read_text(encoding="utf-8")))


def readings(source: str) -> Iterator[tuple[str, str]]:
    """The (key, reader) pairs of one file; nodes, and methods of values, are among the keys.

    Example:
        >>> list(readings("def build(cfg):\\n    node = cfg.MODEL.RDN\\n    return node.ADVANCED"))
        [('MODEL.RDN', 'build'), ('MODEL.RDN.ADVANCED', 'build')]
    """
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            visitor = _Visitor()
            visitor.visit(statement)
            for path in visitor.read:
                yield ".".join(path), statement.name


class _Visitor(ast.NodeVisitor):
    """Collects the paths below `cfg` that a class or a function reads."""

    def __init__(self, names: Mapping[str, _Path] | None = None) -> None:
        self.names = dict(names or {})  # what stands for a node of the configuration in this function
        self.read: list[_Path] = []

    def visit_FunctionDef(self, function: ast.FunctionDef) -> None:
        inner = _Visitor(self.names)  # its names end with it
        for child in ast.iter_child_nodes(function):
            inner.visit(child)
        self.read += inner.read

    def visit_Assign(self, assignment: ast.Assign) -> None:
        # The right side first, with the names as they were before the assignment
        self.visit(assignment.value)
        for target in assignment.targets:
            self._name(target, assignment.value)
            self.visit(target)

    def _name(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for element, element_value in zip(target.elts, value.elts, strict=False):
                self._name(element, element_value)
        elif isinstance(target, ast.Name):
            path = self._path(value)
            # A name that is reassigned no longer stands for the node
            self.names.pop(target.id, None)
            if path is not None:
                self.names[target.id] = path

    def visit_Attribute(self, attribute: ast.Attribute) -> None:
        self._read(attribute)

    def visit_Subscript(self, subscript: ast.Subscript) -> None:
        self._read(subscript)

    def _read(self, node: ast.Attribute | ast.Subscript) -> None:
        path = self._path(node)
        if not path:
            self.generic_visit(node)
        # Assigning to a key is not reading it
        elif isinstance(node.ctx, ast.Load):
            self.read.append(path)

    def _path(self, node: ast.expr) -> _Path | None:
        """Where an expression stands in the configuration, or None."""
        if isinstance(node, ast.Name):
            return () if node.id == "cfg" else self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            before = self._path(node.value)
            if before is None:
                return () if node.attr == "cfg" else None
            return (*before, node.attr)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            before = self._path(node.value)
            return None if before is None else (*before, str(node.slice.value))
        return None


def _subclasses(kind: type[BuiltOfKeys]) -> Iterator[type[BuiltOfKeys]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
