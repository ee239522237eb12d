"""Level 3: detections of a whole video are linked and rescored."""

from vod2.modeling.linking.base import BOX_LINKER_REGISTRY, BoxLinker

__all__ = ["BOX_LINKER_REGISTRY", "BoxLinker"]
