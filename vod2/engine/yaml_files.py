"""What a configuration file and its bases must be before they are merged: local files of keys and values."""

import os
from pathlib import Path
from typing import Any

from vod2.bounded import LimitError, load_yaml
from vod2.errors import UserError

_BASE = "_BASE_"


def require_keys_and_values(path: str | os.PathLike) -> None:
    """Read a configuration file and all that its _BASE_ leads to, without merging them.

    Detectron2 would fetch a base from the network, and build whatever Python object a tag names.

    Raises:
        UserError: a file is missing, no YAML, no mapping, nested too deeply, or has a tag of a Python object; or a
            _BASE_ is no local file, or leads back to its own file. Names the file.

    Example:
        >>> require_keys_and_values("configs/quick/RDN.yaml")
    """
    _walk(os.fspath(path), ())


def _walk(path: str, above: tuple[str, ...]) -> None:
    content = _read(path, above)
    base = content.get(_BASE)
    if base is None:
        return
    bases = base if isinstance(base, list) else [base]
    for one in bases:
        if not isinstance(one, str) or not one:
            raise UserError(f"{path}: {_named_base(one)}, expected the path of a configuration file")
        if "://" in one:
            raise UserError(
                f"{path}: {_named_base(one)}, expected a local file, for nothing is fetched unasked: download it, and "
                "name the copy"
            )
        # As Detectron2 finds it: relative to the file that names it.
        found = os.path.join(os.path.dirname(path), os.path.expanduser(one))
        chain = (*above, os.path.realpath(path))
        if os.path.realpath(found) in chain:
            raise UserError(f"{path}: {_named_base(one)}, which leads back to this file: name another base, or none")
        if "\\" in one and os.sep != "\\" and not os.path.isfile(found):
            raise UserError(f"{path}: {_named_base(one)}, expected slashes instead of backslashes")
        _walk(found, chain)


def _named_base(value: Any) -> str:
    return f"{_BASE} is {value!r:.200}"


def _read(path: str, above: tuple[str, ...]) -> dict:
    named = f" (the {_BASE} of {above[-1]})" if above else ""
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"configuration {path}{named} cannot be read ({error.strerror or error})") from error
    except LimitError as error:
        raise UserError(f"{path}{named}: {error}, expected keys and values of a configuration: fix the file") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}{named} is no YAML of keys and values ({reason:.300}): fix the file") from error
    if content is None:
        raise UserError(f"{path}{named} is empty, expected keys and values, such as MODEL: ...")
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a text" if isinstance(content, str) else f"{content!r:.60}"
        raise UserError(f"{path}{named} is {kind}, expected keys and values, such as MODEL: ...")
    return content
