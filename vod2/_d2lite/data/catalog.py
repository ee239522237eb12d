"""The two global tables: dataset name -> function that loads it, dataset name -> what is known about it."""

import types
from collections import UserDict


class _Catalog(UserDict):
    def list(self):
        """All names."""
        return list(self)

    def remove(self, name):
        """Forgets `name`."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Name -> function without arguments that returns the dataset (usually a list of dataset dicts)."""

    def register(self, name, func):
        """Registers `func` as the loader of the dataset `name`.

        Raises:
            AssertionError: `func` is not callable or the name is taken (the type that Detectron2's scripts catch).
        """
        if not callable(func):
            raise AssertionError(f"dataset '{name}': expected a function that loads it, got {func!r}")
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered! Call DatasetCatalog.remove('{name}') first.")
        self[name] = func

    def get(self, name):  # type: ignore[override]  # as Detectron2's catalogs
        """Calls the registered function and returns the dataset. Raises KeyError, naming the known datasets."""
        if name not in self:
            available = ", ".join(sorted(self)) or "none"
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {available}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """What is known about one dataset (`thing_classes`, `json_file`, `evaluator_type`, ...), as attributes.

    An attribute is set once: setting the same value again is fine, another value is an AssertionError.

    Example:
        >>> meta = Metadata(name="cats")
        >>> meta.set(thing_classes=["cat"]).thing_classes
        ['cat']
    """

    # A default, for the messages of a Metadata() that belongs to no dataset
    name: str = "N/A"

    def __getattr__(self, key):
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are: {', '.join(self.__dict__)}."
        )

    def __setattr__(self, key, value):
        # Overwriting would silently give a dataset the classes of another
        old = self.__dict__.get(key, value)
        if key in self.__dict__ and old != value:
            raise AssertionError(
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{old} != {value}"
            )
        super().__setattr__(key, value)

    def as_dict(self):
        """All attributes, as a new dict."""
        return dict(self.__dict__)

    def set(self, **kwargs):
        """Sets several attributes and returns the object itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key, default=None):
        """The attribute `key`, or `default` where it has never been set."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(_Catalog):
    """Dataset name -> its one `Metadata` object."""

    def get(self, name):  # type: ignore[override]  # as Detectron2's catalogs
        """The metadata of `name`; created empty, with only its name, on the first call."""
        if not name:
            raise AssertionError(f"expected the name of a dataset, got {name!r}")
        # Scripts may set metadata before or after they register the dataset
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
