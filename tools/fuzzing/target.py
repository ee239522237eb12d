"""`Target`, and what the constructors of targets share."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vod2.errors import UserError

TOOLS = Path(__file__).resolve().parents[1]
CLASSES = ["elf", "gnome"]


class Target(NamedTuple):
    """A reader of one file.

    Args:
        file: what it reads.
        seeds: contents that it takes.
        read: reads `file`; raises a UserError, and nothing else, where that is not as it should be.
    """

    file: Path
    seeds: tuple[bytes, ...]
    read: Callable[[], Any]

    def run(self, content: bytes) -> str:
        """Read the content; returns "" where it was taken, or what the UserError says. Any other error is a fault."""
        self.file.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read()
        except UserError as error:
            return str(error) or "nothing"
        return ""


def text(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def image(path: Path, size: tuple[int, int] = (12, 8)) -> None:
    """Write a black one; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def npz(**arrays: Any) -> bytes:
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **{name: np.asarray(values) for name, values in arrays.items()})
    return file.getvalue()


def load_tool(name: str) -> ModuleType:
    """A tool of this folder as a module."""
    return module(TOOLS / f"{name}.py")


def module(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"vod2_fuzzed_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
