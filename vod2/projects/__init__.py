"""Makes projects/<paper> importable as vod2.projects.<paper>, and imports each so that it registers itself."""

import importlib
import pkgutil
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# An installed package holds the projects here; in a checkout they stand beside it.
if not any(_HERE.glob("*/__init__.py")):
    __path__.append(str(_HERE.parents[1] / "projects"))

PROJECTS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def import_all() -> None:
    """Import every project; each adds its classes to the registries and its keys to `add_video_config`."""
    for name in PROJECTS:
        importlib.import_module(f"{__name__}.{name}")
