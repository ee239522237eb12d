"""Plain data that crosses the library, validated on construction."""

from vod2.structures.boxes import PreciseBoxes
from vod2.structures.context import TemporalContext
from vod2.structures.frame import Frame
from vod2.structures.proposals import BACKGROUND, UNKNOWN, ProposalSet
from vod2.structures.role import Role, Support

__all__ = [
    "BACKGROUND",
    "UNKNOWN",
    "Frame",
    "PreciseBoxes",
    "ProposalSet",
    "Role",
    "Support",
    "TemporalContext",
]
