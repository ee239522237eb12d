"""What the project knows of its configuration keys beside their values: who adds them, and who reads them.

A key that nothing reads in a configuration is a mistake without a message. Two things say what is read:

- A schedule or a linker, chosen by the NAME of a node, declares the keys of that node (`BuiltOfKeys.reads`) and is
  built of these: `build_of_keys` refuses a value for another.
- `read_when` stands beside the definition of keys that depend on the value of another key; `unread_keys` lists those
  that a configuration sets in vain.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from vod2.d2 import CfgNode, get_cfg
from vod2.errors import UserError, lookup, settings

EXTENSIONS: list[Callable[[CfgNode], None]] = []
"""The functions that add keys to Detectron2's, in the order in which they do."""


class _Not:
    """Stands for every value but one that counts as nothing."""

    def __init__(self, nothing: str) -> None:
        self.nothing = nothing

    def __repr__(self) -> str:
        return f"not {self.nothing}"


# All test that a value is not empty; they differ in how `when_read` words the condition
NAMED, NONZERO, FILLED = _Not("''"), _Not("0"), _Not("()")

Conditions = Mapping[str, Any]
"""{key: a value, NAMED, NONZERO, FILLED, or a tuple of values of which the key must have one}; all must hold."""

_READ_WHEN: dict[str, list[Conditions]] = defaultdict(list)


def register_config(add_keys: Callable[[CfgNode], None]) -> Callable[[CfgNode], None]:
    """Decorator for a function that adds keys to Detectron2's; `add_video_config` calls it.

    Beside each key (at the end of its line, or in the lines above it) a comment says what it means: docs/config.md is
    made of these comments.
    """
    EXTENSIONS.append(add_keys)
    return add_keys


def default_config() -> CfgNode:
    """Every key of Detectron2, of vod2 and of the projects that are imported, at its default."""
    cfg = get_cfg()
    for add_keys in EXTENSIONS:
        add_keys(cfg)
    return cfg


def read_when(conditions: Conditions, *keys: str) -> None:
    """Say that `keys` (a node stands for all keys below it) are read in configurations that meet `conditions`.

    Keys of which nothing is said are always read. What is said of one key in several calls are alternatives, so that a
    project can add itself to the readers of a key of vod2. What is said of a node and of a key in it must both hold. A
    name that stands in a sum ("A+B") counts as if it stood alone, and a condition whose own key is not read fails.

    Example:
        >>> from vod2.keys import read_when
        >>> read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MyAggregator"}, "MODEL.MINE")
    """
    for key in keys:
        # A module that is reloaded says the same again
        if conditions not in _READ_WHEN[key]:
            _READ_WHEN[key].append(conditions)


def conditions_of(key: str) -> list[Conditions]:
    """What `read_when` was told of a key or node, without what holds for the nodes above it: the alternatives."""
    # `get`, for a look-up by [] would make an entry of every key that is asked for
    return list(_READ_WHEN.get(key, ()))


def keys_with_conditions() -> list[str]:
    """The keys and nodes of which `read_when` was told something."""
    return sorted(key for key, alternatives in _READ_WHEN.items() if alternatives)


class Leaf(NamedTuple):
    """A key and its value."""

    key: str
    value: Any


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[Leaf]:
    """All keys below a node, as "MODEL.RDN.ADVANCED", in their order."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield Leaf(prefix + name, value)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key, or a node."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def is_read(cfg: CfgNode, key: str) -> bool:
    """Whether, by what `read_when` was told, something reads this key in a configuration."""
    names = key.split(".")
    for depth in range(1, len(names) + 1):
        # NAME, on which the rest of its node depends, does not depend on itself.
        node = ".".join(names[:depth])
        alternatives = [conditions for conditions in conditions_of(node) if key not in conditions]
        if alternatives and not any(_holds(cfg, conditions) for conditions in alternatives):
            return False
    return True


def _holds(cfg: CfgNode, conditions: Conditions) -> bool:
    return all(_matches(value_of(cfg, key), wanted) and is_read(cfg, key) for key, wanted in conditions.items())


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, _Not):
        return bool(value)
    accepted = wanted if isinstance(wanted, tuple) else (wanted,)
    # "A+B" is made of A and of B, and reads the keys of both
    parts = value.split("+") if isinstance(value, str) else [value]
    return any(part in accepted for part in parts)


class Unread(NamedTuple):
    """A key that a configuration sets in vain.

    Attributes:
        value: what it is set to, not the default.
        reason: when it would be read, in words.
    """

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} {self.value!r} (read when {self.reason})"


def unread_keys(cfg: CfgNode) -> list[Unread]:
    """The keys that have another value than their default, though nothing reads them in this configuration."""
    defaults = dict(leaves(default_config()))
    unread = []
    for key, value in leaves(cfg):
        # Keys without a default were added by a script, which knows what it reads
        if key in defaults and value != defaults[key] and not is_read(cfg, key):
            names = key.split(".")
            nodes = (".".join(names[:depth]) for depth in range(1, len(names) + 1))
            reasons = [when for node in nodes if (when := when_read(node))]
            unread.append(Unread(key, value, "; and ".join(reasons)))
    return unread


def when_read(key: str) -> str:
    """The alternatives of a key or node in words: "INPUT.VIDEO_AUGMENTATION is 'SSD'"; "" where there are none.

    Example:
        >>> import vod2
        >>> from vod2.keys import when_read
        >>> when_read("INPUT.SSD")
        "INPUT.VIDEO_AUGMENTATION is 'SSD'"
    """
    by_key: dict[str, list[str]] = {}  # several calls that ask one key for one value each are one sentence
    longer = []
    for conditions in conditions_of(key):
        if len(conditions) == 1:
            (name, wanted), *_ = conditions.items()
            by_key.setdefault(name, []).extend(_in_words(wanted))
        else:
            longer.append(" and ".join(f"{name} is {_either(_in_words(value))}" for name, value in conditions.items()))
    return ", or when ".join([*(f"{name} is {_either(values)}" for name, values in by_key.items()), *longer])


def _in_words(wanted: Any) -> list[str]:
    return [repr(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))]


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


class BuiltOfKeys:
    """A component that the NAME of a configuration node chooses, and that is built of other keys of that node.

    Attributes:
        node: the node, such as "VIDEO.TEST_SCHEDULE".
        reads: {argument of the constructor: key of the node}. `from_config` sees these keys and no others. None, for a
            class from elsewhere that overrides `from_config` and declares nothing, is the whole node.
    """

    node: ClassVar[str]
    reads: ClassVar[Mapping[str, str] | None] = None

    @classmethod
    def from_config(cls, node: CfgNode) -> Any:
        """Build from the keys that the class reads."""
        return cls(**cls.arguments(node))

    @classmethod
    def arguments(cls, node: CfgNode) -> dict[str, Any]:
        """{argument of the constructor: value of its key}."""
        return {argument: node[key] for argument, key in (cls.reads or {}).items()}


def build_of_keys(
    registry: Iterable[tuple[str, type[BuiltOfKeys]]],
    cfg: CfgNode,
    where: str,
    names: Sequence[str],
    others: Sequence[str] = ("NAME",),
) -> list[Any]:
    """Components of one node: those of the registry that `names` say.

    Args:
        registry: their classes by name.
        where: the node, "VIDEO.TEST_SCHEDULE".
        names: what NAME of the node says, one for each component.
        others: keys of the node that the caller reads itself.

    Raises:
        UserError: if a name is not in the registry, a constructor refuses a value (ValueError), or a key that none of
            the components reads has another value than its default.
    """
    classes, node = dict(registry), value_of(cfg, where)
    kinds: list[type[BuiltOfKeys]] = [lookup(classes.items(), name, f"{where}.NAME") for name in names]
    declared = [kind.reads for kind in kinds if kind.reads is not None]
    # A component that declares nothing may read any key of the node
    if len(declared) == len(kinds):
        read = {*others}.union(*(reads.values() for reads in declared))
        _refuse_unread(classes, node, where, " + ".join(names), read)
    # Turns a ValueError of a constructor into a UserError that names the node
    with settings(where):
        return [kind.from_config(_part_of(node, kind)) for kind in kinds]


def _part_of(node: CfgNode, kind: type[BuiltOfKeys]) -> CfgNode:
    """The keys that a component reads: what it does not declare it does not see."""
    return node if kind.reads is None else CfgNode({key: node[key] for key in kind.reads.values()})


def _refuse_unread(
    registry: Mapping[str, type[BuiltOfKeys]], node: CfgNode, where: str, chosen: str, read: set[str]
) -> None:
    defaults = value_of(default_config(), where)
    unread = [key for key in node if key in defaults and key not in read and node[key] != defaults[key]]
    if not unread:
        return
    values = " and ".join(f"{where}.{key} is {node[key]!r}" for key in unread)
    keys = ", ".join(key for key in node if key in read and key != "NAME") or "no other key"
    resets = " ".join(f"{key} {defaults[key]!r}" for key in unread)
    readers = {key: [name for name, kind in registry.items() if key in (kind.reads or {}).values()] for key in unread}
    instead = "; ".join(f"{key} is read by {', '.join(names)}" for key, names in readers.items() if names)
    raise UserError(
        f"{values}, but {where}.NAME {chosen!r} reads {keys}: leave {'it' if len(unread) == 1 else 'them'} out or set "
        f"the default ({resets}), or choose another NAME ({instead})"
    )
