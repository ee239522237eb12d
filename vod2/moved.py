"""Old names of what has moved: they work for one version, with a DeprecationWarning that says where it is now."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

OLD_NAMES: dict[str, str] = {}
"""Every old name, in full, and its place as `moved` is given it; of the packages that have been imported."""


def moved(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package or module that some of its names have left.

    Args:
        package: `__name__` of the caller.
        places: old name in it -> where that is now: "vod2.video.reader" for a module, which can then still be imported
            as `package.<old name>`, or "vod2.video:VideoWriter" for a name in a module.

    Example:
        >>> import math
        >>> __getattr__ = moved("geometry", {"circle": "math:pi"})
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     __getattr__("circle") == math.pi
        True
        >>> print(seen[0].message)
        geometry.circle is now math.pi; the old name goes with the next version
    """
    for name, place in places.items():
        OLD_NAMES[f"{package}.{name}"] = place
        if ":" not in place:
            # An import statement asks sys.modules before it looks for a file.
            alias = _MovedModule(f"{package}.{name}", place)
            sys.modules[alias.__name__] = alias
            setattr(sys.modules[package], name, alias)

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        _warn(f"{package}.{name}", f"{module}.{attribute}")
        return getattr(importlib.import_module(module), attribute)

    return get


def renamed_method(cls: str, old: str, new: str) -> Callable[..., Any]:
    """The method `old` of a class, which has the name `new` now.

    Args:
        cls: name of the class, for the warning.

    Example:
        >>> class Circle:
        ...     def area(self, radius):
        ...         return 3 * radius**2
        ...     surface = renamed_method("Circle", "surface", "area")
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     Circle().surface(2)
        12
        >>> print(seen[0].message)
        Circle.surface is now Circle.area; the old name goes with the next version
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _warn(f"{cls}.{old}", f"{cls}.{new}")
        return getattr(self, new)(*args, **kwargs)

    return method


class _MovedModule(ModuleType):
    """Stands in sys.modules for a module that is now `place`, which it imports when it is asked for a name."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, f"{name} is now {place}.")
        self._place = place

    def __getattr__(self, name: str) -> Any:
        # Python and its tools ask every loaded module for such names: nobody has used the old path.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(self._place), name)
        _warn(self.__name__, self._place)
        return value


def _warn(old: str, new: str) -> None:
    # Level 3: the code that uses the name, above this function and the __getattr__ or method that calls it.
    message = f"{old} is now {new}; the old name goes with the next version"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
