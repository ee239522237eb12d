"""Python files of a user that register data sets, components or keys, for the command line tools."""

import argparse
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vod2.errors import UserError

VARIABLE = "VOD2_REGISTER"
"""Environment variable with such files, separated as those of PATH are: processes of a tool inherit it."""

_loaded: set[str] = set()


def add_register_option(parser: argparse.ArgumentParser) -> None:
    """Add --register FILE.py, which runs the file while the words are parsed, and in the processes that follow."""
    parser.add_argument(
        "--register",
        action=_Register,
        metavar="FILE.py",
        help="run this file first: it registers data sets of yours; give it again for further ones",
    )


class _Register(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        path = os.path.abspath(values)
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), path])
        register_files([path])
        known = os.environ.get(VARIABLE, "").split(os.pathsep)
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*filter(None, known), path]))


def register_files(paths: Sequence[str] | None = None) -> None:
    """Run Python files, each once in a process; those of the environment variable, unless `paths` are given.

    A file may import those beside it.

    Raises:
        UserError: a file does not exist, or raises; names it, and the line.
    """
    if paths is None:
        paths = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    for path in map(os.path.realpath, paths):
        if path not in _loaded:
            _run(path)
            _loaded.add(path)


def _run(path: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"--register {path}: there is no such file, expected a Python file that registers data sets")
    name = f"vod2_registered_{len(_loaded)}"
    # By its loader, as the name need not end in .py.
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=path))
    module.__file__ = path
    # By name, for what is defined in it may be pickled for worker processes.
    sys.modules[name] = module
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        loader.exec_module(module)
    except UserError as error:
        raise UserError(f"--register {path}: {error}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        where = "" if line is None else f", line {line}"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--register {path}{where}: {reason:.300}: fix the file") from error
