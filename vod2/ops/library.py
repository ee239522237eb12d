"""Loads the compiled extension ``vod2._C``, if it was built; loading it registers its ops under ``torch.ops.vod2``."""

import importlib
import logging

import torch  # noqa: F401  (the extension links against PyTorch's libraries, which must be in the process before it)


def _load() -> tuple[str, ...]:
    try:
        extension = importlib.import_module("vod2._C")
    except ModuleNotFoundError:
        return ()
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "The compiled ops of vod2 do not load (%s), so their slower Python versions run. Build them again for the "
            "PyTorch that is installed: python setup.py build_ext --inplace --force",
            error,
        )
        return ()
    return ("cpu", "cuda") if extension.with_cuda else ("cpu",)


_DEVICE_TYPES = _load()


def compiled_device_types() -> tuple[str, ...]:
    """The device types ("cpu", "cuda") that compiled kernels were loaded for; empty if there is no extension."""
    return _DEVICE_TYPES
