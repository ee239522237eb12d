"""Why a frame is in the context of another one."""

import enum
from typing import Any, NamedTuple


class Role(enum.Enum):
    """The part that a support frame plays for the key frame."""

    KEY = "key"  # the key frame itself, in training with its sampled RoIs
    LOCAL = "local"  # near the key frame in time
    GLOBAL = "global"  # anywhere in the video
    MEMORY = "memory"  # long before the key frame
    KEYFRAME = "keyframe"  # the last frame that was encoded at full cost
    POSITIVE = "positive"  # of another video, of the same class
    NEGATIVE = "negative"  # of another video, of another class


class Support(NamedTuple):
    """One frame that a key frame looks at: `index` counts from 0 in the key frame's video."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    role: Role | Any  # None for a frame that no schedule has named, see `PixelAggregator.encode`
