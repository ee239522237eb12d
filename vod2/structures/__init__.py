"""Plain data that crosses the library, validated on construction."""

from vod2.structures.boxes import PreciseBoxes
from vod2.structures.clip import Clip
from vod2.structures.context import TemporalContext
from vod2.structures.derived import FeatureRows, as_tensor, cat_rows, remembered_together, through, with_rows
from vod2.structures.frame import Frame
from vod2.structures.proposals import BACKGROUND, POOLED_MAPS, TRACK_IDS, UNKNOWN, VALID, ProposalSet
from vod2.structures.role import Role, Support

__all__ = [
    "BACKGROUND",
    "POOLED_MAPS",
    "TRACK_IDS",
    "UNKNOWN",
    "VALID",
    "Clip",
    "FeatureRows",
    "Frame",
    "PreciseBoxes",
    "ProposalSet",
    "Role",
    "Support",
    "TemporalContext",
    "as_tensor",
    "cat_rows",
    "remembered_together",
    "through",
    "with_rows",
]
