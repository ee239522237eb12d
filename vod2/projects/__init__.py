"""Makes projects/<paper> importable as vod2.projects.<paper>, and imports each so that it registers itself."""

import importlib
import pkgutil
from pathlib import Path

# In a checkout the projects stand beside the package; an installed package holds them here.
_checkout = Path(__file__).resolve().parents[2] / "projects"
if _checkout.is_dir():
    __path__.append(str(_checkout))

PROJECTS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def import_all() -> None:
    """Import every project; each adds its classes to the registries and its keys to `add_video_config`."""
    for name in PROJECTS:
        importlib.import_module(f"{__name__}.{name}")
