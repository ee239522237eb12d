"""What type checkers are told about lists of modules."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, overload

from torch import nn

Member = TypeVar("Member", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleList(nn.ModuleList, Sequence[Member]):
        """`nn.ModuleList` that knows what it holds; PyTorch's own says that it may be any module."""

        def __init__(self, modules: Iterable[Member] = ()) -> None: ...

        # PyTorch and Python list the overloads in different orders.
        @overload  # type: ignore[override]
        def __getitem__(self, index: slice) -> "ModuleList[Member]": ...
        @overload
        def __getitem__(self, index: int) -> Member: ...
        def __getitem__(self, index: int | slice) -> "Member | ModuleList[Member]": ...

        def __iter__(self) -> Iterator[Member]: ...

else:
    ModuleList = nn.ModuleList
