"""Readers with size limits for untrusted input: a file of a few bytes may expand to more than the memory holds.

Malformed input raises ValueError, whatever the underlying library raises. The message gives the reason; the caller adds
the name of the file.
"""

import gzip
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar
from xml.etree import ElementTree

import numpy as np
import yaml

MAX_UNPACKED = 2**30
"""A compressed file may always expand to this many bytes."""
MAX_RATIO = 100
"""Beyond `MAX_UNPACKED`, a compressed file may expand to this many times its size. Boxes and JSON reach about 30."""
MAX_YAML_NODES = 10**6
"""Keys and values of a YAML file, each counted as often as aliases repeat it."""
MAX_XML_DEPTH = 100
"""Levels of elements in an XML file that is read element by element."""
MAX_DIGITS = 1000
"""Digits of an integer in YAML, which may be hexadecimal. In JSON, Python itself reads at most 4300."""

_TOO_DEEP_JSON = "it is nested too deeply, the limit is Python's: about 900 brackets"
_CHUNK = 2**20  # bytes decompressed at a time

_Value = TypeVar("_Value")


class LimitError(ValueError):
    """A limit of this module was exceeded; the message names it."""


def shown(value: Any, width: int = 80) -> str:
    """`repr` for messages, truncated to `width`; also works for integers that Python refuses to convert to decimal.

    Example:
        >>> shown([1, 2]), shown(16**5000)
        ('[1, 2]', 'a number of thousands of digits')
    """
    try:
        return f"{value!r:.{width}}"
    except ValueError:
        return "a number of thousands of digits"


def require_unpacked(size: int, packed: int) -> None:
    """Raises LimitError if `packed` bytes should not unpack to `size` bytes."""
    allowed = max(MAX_UNPACKED, MAX_RATIO * packed)
    if size > allowed:
        raise LimitError(
            f"its {packed} bytes unpack to {size} or more, the limit is {allowed}: {MAX_UNPACKED}, or {MAX_RATIO} "
            "times its size"
        )


def unpack_gzip(content: bytes) -> bytes:
    """The decompressed content of a .gz file.

    Raises:
        ValueError: it is damaged; LimitError: it expands to too much.
    """
    parts, size = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while part := file.read(_CHUNK):
                size += len(part)
                require_unpacked(size, len(content))
                parts.append(part)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)


def read_member(archive: zipfile.ZipFile, name: str, packed: int) -> bytes:
    """A member of a ZIP archive of `packed` bytes.

    Raises:
        ValueError: it is missing or damaged; LimitError: it expands to too much.
    """
    try:
        # zipfile reads no more than the size stated in the directory.
        require_unpacked(archive.getinfo(name).file_size, packed)
        return archive.read(name)
    except LimitError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged file
        raise ValueError(_sentence(error)) from error


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without pickled ones.

    The stated shape of each array is checked against its bytes before memory is allocated.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or not an .npz file; LimitError: it expands to too much.
    """
    with open(path, "rb") as file:
        packed = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                require_unpacked(sum(member.file_size for member in archive.infolist()), packed)
                for member in archive.infolist():
                    _require_whole_array(archive, member)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except LimitError:
            raise
        except Exception as error:  # NumPy and zipfile raise many types for a damaged file
            raise ValueError(_sentence(error)) from error


def _require_whole_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raises LimitError if the shape in the header of an array does not match the bytes that follow."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_head(file)
        there = member.file_size - file.tell()
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != there:
        # A limit, because a header of a few bytes may request any amount of memory.
        raise LimitError(
            f"{member.filename} states {shape} {dtype}, {wanted} bytes, the limit is the {there} bytes it holds"
        )


def load_json(text: str | bytes) -> Any:
    """`json.loads`.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise LimitError(_TOO_DEEP_JSON) from error


def load_json_at(text: str, position: int) -> Any:
    """The JSON value that begins at `position` of a text, whatever follows it; blanks before it are skipped.

    Raises:
        ValueError: there is none, or it is nested too deeply.
    """
    start = re.compile(r"\s*").match(text, position)
    assert start is not None  # it matches nothing, too
    try:
        return json.JSONDecoder().raw_decode(text, start.end())[0]
    except RecursionError as error:
        raise LimitError(_TOO_DEEP_JSON) from error


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """`yaml.safe_load`, or the same with another loader of plain values.

    Raises:
        ValueError: it is not YAML of plain values; LimitError: it is nested too deeply, its aliases expand to too much,
            or a number is too long.
    """

    def load() -> Any:
        opened = loader(text)
        try:
            node = opened.get_single_node()
            if node is None:
                return None
            _require_moderate(node)
            return opened.construct_document(node)
        finally:
            opened.dispose()

    return _plainly(load)


def _plainly(load: Callable[[], _Value]) -> _Value:
    try:
        return load()
    except RecursionError as error:
        raise LimitError("it is nested too deeply, the limit is Python's: about 100 brackets") from error
    # TypeError: a list as a key; AttributeError: a bug in PyYAML. A date that does not exist is a ValueError already.
    except (yaml.YAMLError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(_sentence(error)) from error


def _require_moderate(root: yaml.Node) -> None:
    sizes: dict[int, int] = {}
    opened: set[int] = set()
    # Depth first: children are above their node on the stack, so they are counted when the node comes up again.
    stack = [root]
    while stack:
        node = stack[-1]
        key = id(node)
        if key in sizes:
            stack.pop()
            continue
        children = _children(node)
        if key not in opened:
            opened.add(key)
            pending = [child for child in children if id(child) not in sizes]
            if any(id(child) in opened for child in pending):
                raise LimitError("an alias refers to a node that contains it")
            stack += pending
            continue
        sizes[key] = 1 + sum(sizes[id(child)] for child in children)
        if sizes[key] > MAX_YAML_NODES:
            raise LimitError(f"its aliases expand to too much, the limit is {MAX_YAML_NODES} keys and values")
        stack.pop()


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
        raise LimitError(f"a number has {len(node.value)} digits, the limit is {MAX_DIGITS}")
    return []


class _WithoutDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise LimitError(f"it has a DOCTYPE ({name:.40}), which may define entities: a DOCTYPE is not allowed")


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root of an XML document without a DOCTYPE, whose entities could expand to any size or read other files.

    Raises:
        ValueError: it is malformed; LimitError: it has a DOCTYPE.
    """
    # ElementTree's own builder is twice as fast; it is used where no other encoding can hide a DOCTYPE.
    is_plain = b"<!" not in content and b"\0" not in content and b"encoding" not in content[:200]
    parser = ElementTree.XMLParser() if is_plain else ElementTree.XMLParser(target=_WithoutDoctype())
    try:
        parser.feed(content)
        return parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(str(error)) from error


class _StreamedTree(_WithoutDoctype):
    """Hands over the children of the root as they are complete, and forgets them."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = root
        self._open: list[ElementTree.Element] = []
        self.complete: list[ElementTree.Element] = []

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        if not self._open and tag != self._root:
            raise ValueError(f"its root is <{tag:.40}>, expected <{self._root}>")
        if len(self._open) == MAX_XML_DEPTH:
            raise LimitError(f"its elements are nested too deeply, the limit is {MAX_XML_DEPTH}")
        self._open.append(super().start(tag, attributes))
        return self._open[-1]

    def end(self, tag: str) -> ElementTree.Element:
        element = super().end(tag)
        self._open.pop()
        if len(self._open) == 1:
            self.complete.append(element)
            self._open[0].clear()
        return element

    def take(self) -> list[ElementTree.Element]:
        """Those that are complete since the last call."""
        taken, self.complete = self.complete, []
        return taken


def stream_xml(file: BinaryIO, root: str) -> Iterator[ElementTree.Element]:
    """The children of the root of an XML document, one after the other; only a few are in memory at a time.

    Args:
        file: the document.
        root: tag that its root must have.

    Raises:
        ValueError: it is malformed, or has another root; LimitError: it has a DOCTYPE, or is nested too deeply.
    """
    tree = _StreamedTree(root)
    parser = ElementTree.XMLParser(target=tree)
    try:
        while part := file.read(_CHUNK):
            parser.feed(part)
            yield from tree.take()
        parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(str(error)) from error
    yield from tree.take()


def _sentence(error: Exception) -> str:
    """The message in one line; the name of the type if there is none."""
    return " ".join(str(error).split()) or type(error).__name__
