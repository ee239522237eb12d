"""`Registry`: a name -> object map; ``@REGISTRY.register()`` above a class or function, ``REGISTRY.get(name)``."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
