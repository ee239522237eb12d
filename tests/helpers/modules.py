"""Python files that are in no package, such as those of tools/."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_module(path: str | Path) -> ModuleType:
    """Run the file and return it as a module; a new one at each call."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
