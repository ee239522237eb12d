"""Pickles of arrays and plain containers: a file of weights must not be able to run code."""

import pickle
from typing import IO, Any


class ForeignCode(pickle.UnpicklingError):
    """A pickle names a function or a class that is not plain data; the message is its name."""


class _PlainUnpickler(pickle.Unpickler):
    _PLAIN = {
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._PLAIN:
            raise ForeignCode(f"{module}.{name}")
        return super().find_class(module, name)


def load_plain_pickle(file: IO[bytes]) -> Any:
    """What the pickle holds, of Python 2 or 3: numpy arrays, numbers, strings and plain containers.

    Raises:
        ForeignCode: if it names anything else; nothing of it has been called.
        pickle.UnpicklingError, EOFError, ...: if it is broken.
    """
    return _PlainUnpickler(file, encoding="latin1").load()
