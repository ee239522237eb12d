"""The contract of level 3."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vod2.d2 import Instances, Registry

BOX_LINKER_REGISTRY = Registry("BOX_LINKER")
BOX_LINKER_REGISTRY.__doc__ = """Subclasses of `BoxLinker` with a `from_config(cfg)`."""


class BoxLinker(ABC):
    """Links the boxes of one video over time and rescores them; plain arrays, no gradient."""

    @abstractmethod
    def link(self, video: Sequence[Instances]) -> list[Instances]:
        """One `Instances` (pred_boxes, scores, pred_classes) for each frame, in order -> the same frames, rescored."""
