"""What of a file of weights fits a model, what does not, and why; told by groups of modules."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tabulate import tabulate
from torch import Tensor, nn

Shape = tuple[int, ...]

_HEADERS = {"loaded": "loaded", "new": "new", "other_shape": "of another shape", "unused": "unused of the file"}
_NAMED = 10  # tensors of another shape that are named one by one


@dataclass(frozen=True)
class LoadReport:
    """The tensors of a model and of a file by their names.

    Counters of batches (num_batches_tracked) and buffers that are not saved are in none of them: no file needs them.

    Attributes:
        path: the file, as it was asked for.
        loaded: {name: shape} of those that are in both.
        new: {name: shape} of the model's that the file does not have: they keep their initial values.
        other_shape: {name: (shape in the file, shape in the model)}: they keep their initial values, too.
        unused: {name: shape} of the file's that the model does not have.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> print(compare(model, {"weight": torch.zeros(3, 2)}, "a.pth").summary())
        1 of 2 tensors (66.6% of the numbers) loaded from a.pth; new: bias (1 tensor, 3)
    """

    path: str
    loaded: dict[str, Shape]
    new: dict[str, Shape]
    other_shape: dict[str, tuple[Shape, Shape]]
    unused: dict[str, Shape]

    @property
    def wanted(self) -> dict[str, Shape]:
        """{name: shape} of all of the model's."""
        return self.loaded | self.new | {name: shape for name, (_, shape) in self.other_shape.items()}

    @property
    def share(self) -> float:
        """How many of the model's numbers are loaded, in [0, 1]; 1 for a model without any."""
        total = _count(self.wanted.values())
        return _count(self.loaded.values()) / total if total else 1.0

    @property
    def percent(self) -> float:
        """`share` with one decimal, for people: 100.0 is said of all only."""
        return int(1000 * self.share) / 10

    @property
    def unused_share(self) -> float:
        """How many of the file's numbers are unused, in [0, 1]; 0 for a file without any."""
        shapes = [*self.loaded.values(), *(found for found, _ in self.other_shape.values()), *self.unused.values()]
        return _count(self.unused.values()) / max(_count(shapes), 1)

    def summary(self) -> str:
        """One sentence: how much is loaded, and which groups are not."""
        tensors = f"{len(self.loaded)} of {len(self.wanted)} tensors"
        parts = [f"{tensors} ({self.percent}% of the numbers) loaded from {self.path}"]
        groups = self._groups()
        for status in ("new", "other_shape", "unused"):
            told = [f"{group} ({size(cells[status])})" for group, cells in groups.items() if status in cells]
            if told:
                parts.append(f"{_HEADERS[status]}: {', '.join(told)}")
        return "; ".join(parts)

    def unused_groups(self) -> list[str]:
        """The groups of `unused`, as names of modules."""
        return [group for group, cells in self._groups().items() if "unused" in cells]

    def table(self) -> str:
        """Tensors and numbers of each group, then the shapes that differ, then `summary`."""
        rows = []
        for group, shapes_of in self._groups().items():
            cells = [size(shapes_of[status]) if status in shapes_of else "" for status in _HEADERS]
            rows.append([group, *cells])
        lines = [tabulate(rows, ["module", *_HEADERS.values()], tablefmt="presto", disable_numparse=True)]
        for name, (in_file, in_model) in list(self.other_shape.items())[:_NAMED]:
            lines.append(f"{name}: {in_file} in the file, {in_model} in the model")
        if len(self.other_shape) > _NAMED:
            lines.append(f"and {len(self.other_shape) - _NAMED} more of another shape")
        return "\n".join([*lines, self.summary()])

    def _groups(self) -> dict[str, dict[str, list[Shape]]]:
        """{group: {status: shapes}}: by the first part of the names, by the first two where those are mixed."""
        in_model = {name: shape for name, (_, shape) in self.other_shape.items()}
        shapes_of_statuses = {"loaded": self.loaded, "new": self.new, "other_shape": in_model, "unused": self.unused}
        tensors = []
        statuses = defaultdict(set)  # of what begins with the same part
        for status, shapes in shapes_of_statuses.items():
            for name, shape in shapes.items():
                tensors.append((name, status, shape))
                statuses[_prefix(name, 1)].add(status)
        groups: dict[str, dict[str, list[Shape]]] = {}
        for name, status, shape in sorted(tensors):
            is_mixed = len(statuses[_prefix(name, 1)]) > 1
            group = _prefix(name, 2 if is_mixed else 1)
            groups.setdefault(group, {}).setdefault(status, []).append(shape)
        return groups


def compare(model: nn.Module, state: Mapping[str, Tensor], path: str) -> LoadReport:
    """What of `state`, which is that of the file `path`, fits the model; nothing is loaded."""
    in_model, in_file = _shapes(model.state_dict()), _shapes(state)
    report = LoadReport(path, loaded={}, new={}, other_shape={}, unused={})
    for name, shape in in_model.items():
        if name not in in_file:
            report.new[name] = shape
        elif in_file[name] == shape:
            report.loaded[name] = shape
        else:
            report.other_shape[name] = in_file[name], shape
    # Files of other versions may hold buffers that the model has but does not save: they are of no use, and no loss.
    unsaved = {name for name, _ in model.named_buffers()}
    for name, shape in in_file.items():
        if name not in in_model and name not in unsaved:
            report.unused[name] = shape
    return report


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _prefix(name: str, parts: int) -> str:
    """The module of a tensor by so many parts of its name, without the tensor's own where there is another."""
    return ".".join((name.split(".")[:-1] or [name])[:parts])


def _count(shapes: Iterable[Shape]) -> int:
    return sum(map(prod, shapes))


def size(shapes: Sequence[Shape]) -> str:
    """How much tensors of these shapes are, such as "18 tensors, 3.1 M"."""
    numbers = _count(shapes)
    if numbers >= 1e6:
        short = f"{numbers / 1e6:.1f} M"
    elif numbers >= 1e3:
        short = f"{numbers / 1e3:.1f} k"
    else:
        short = str(numbers)
    return f"{len(shapes)} tensor{'s' * (len(shapes) != 1)}, {short}"
