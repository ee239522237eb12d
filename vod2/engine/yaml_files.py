"""What a configuration file and its bases must be before they are merged: local files of keys and values."""

import os
from pathlib import Path
from typing import Any

from vod2.bounded import LimitError, load_yaml, shown
from vod2.errors import UserError
from vod2.package_files import find_config

_BASE = "_BASE_"


def require_keys_and_values(path: str | os.PathLike) -> dict | None:
    """Read a configuration file and all that its _BASE_ leads to.

    Detectron2 would fetch a base from the network, and build whatever Python object a tag names. It also knows only
    bases that are files; here one may be the name of a configuration that comes with vod2, as `find_config` takes it,
    unless there is a file of that path.

    Returns:
        All keys and values, merged as Detectron2 does; None where all bases are files, which it can merge itself.

    Raises:
        UserError: a file is missing, no YAML, no mapping, nested too deeply, or has a tag of a Python object; or a
            _BASE_ is no local file, or leads back to its own file. Names the file.

    Example:
        >>> require_keys_and_values("configs/quick/RDN.yaml")
    """
    merged, packaged = _walk(os.fspath(path), ())
    return merged if packaged else None


def _walk(path: str, above: tuple[str, ...]) -> tuple[dict, bool]:
    """The keys and values of a file and its bases, and whether one of the bases comes with vod2."""
    content = _read(path, above)
    base = content.pop(_BASE, None)
    if base is None:
        return content, False
    bases = base if isinstance(base, list) else [base]
    merged: dict[str, Any] = {}
    any_packaged = False
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
        packaged = not os.path.isfile(found) and os.path.isfile(find_config(one))
        of_base, of_packaged = _walk(find_config(one) if packaged else found, chain)
        _merge(of_base, merged, path)
        any_packaged = any_packaged or packaged or of_packaged
    _merge(content, merged, path)
    return merged, any_packaged


def _merge(keys: dict, into: dict, path: str) -> None:
    """Merge one mapping into another; a mapping takes the place of none, nor is it taken by another value's."""
    for key, value in keys.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise UserError(f"{path}: {key} is {shown(into[key])} in a {_BASE}, and keys and values here: fix one")
            _merge(value, into[key], path)
        else:
            into[key] = value


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
