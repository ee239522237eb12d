"""Level 1: the feature map of the key frame takes from those of its supports.

T: supports, C: channels, H, W: size of the map.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from vod2.d2 import CfgNode, Registry, ShapeSpec
from vod2.errors import UserError, lookup, settings
from vod2.modeling.aggregation import Aggregated
from vod2.modeling.backbone import split_maps
from vod2.modeling.box_source import maps_read
from vod2.modeling.deprecated import DeprecatedPixelMethods, honour_old_names
from vod2.structures import Frame, Role, Support, TemporalContext

PIXEL_AGGREGATOR_REGISTRY = Registry("PIXEL_AGGREGATOR")
PIXEL_AGGREGATOR_REGISTRY.__doc__ = """
Subclasses of `PixelAggregator`, called with (cfg, {level: ShapeSpec} of the backbone).
Chosen by MODEL.VIDEO.PIXEL_AGGREGATOR.NAME.
"""


class KeyframeSteps(NamedTuple):
    """A level 1 that carries nothing but one map, its memory, from keyframe to keyframe, as pure functions of maps.

    Frame t is a keyframe where t is a multiple of the interval. All maps are (1, C, H, W); the first keyframe of a
    video is its task map and the memory.

    Attributes:
        interval: distance of two keyframes.
        at_keyframe: (map of the stage, memory) -> (task map, new memory).
        between: (what `encode` keeps of a frame between two, memory) -> task map.
        low: the name of what `encode` keeps of a frame between two.
    """

    interval: int
    at_keyframe: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    between: Callable[[Tensor, Tensor], Tensor]
    low: str


class PixelAggregator(DeprecatedPixelMethods, nn.Module, ABC):
    """Aggregates feature maps: a pure function, see `Aggregated`.

    Attributes:
        stage: the map that it replaces.
        replaces_stage: whether those who read the stage itself, such as an RPN on conv4, see the new map; else only
            what the backbone makes of it is replaced.
        per_key_frame: whether the maps that the proposals of supports are made of depend on the key frame. They are
            then made anew for each key frame, and so are those proposals, which is as much work for each frame of the
            window as for the key frame. If not, they are made once, when a frame enters the memory of a stream.
    """

    stage: str
    replaces_stage: bool = True
    per_key_frame: bool = False

    def encode(self, backbone: nn.Module, images: Tensor, frames: Sequence[Support]) -> list[dict[str, Tensor]]:
        """Images (B, 3, H, W), normalised and padded -> what is kept of each: {level: (1, C, H/s, W/s)}.

        A method that spends less on some frames, or that looks at images, overrides this. In a stream and for the key
        frames of clips the role is None: the frame's number must then tell what the frame is to the method. A key frame
        has the role KEYFRAME where its clip has no supports, and KEY where the training schedule names it as one.
        """
        return split_maps(backbone(images))

    def keyframe_steps(self) -> KeyframeSteps | None:
        """What `vod2 export` makes graphs of; None, as here, for a method that it cannot export.

        In a stream, whose frames come one after the other from number 0, `forward` must give what the steps give.
        """
        return None

    def support_features(self, frame: Frame, context: TemporalContext) -> dict[str, Tensor]:
        """What the proposals of a support are made of: {stage: (1, C, H, W)}, or {} for what `encode` made, as here.

        An aggregator that overrides this returns a map for every frame. `forward` is never given these maps: there the
        frames of the context hold what `encode` made, so that nothing depends on frames that have left the memory.

        Args:
            frame: one that enters the memory of a stream, or a support of a clip.
            context: the frames that the memory holds by then, without `frame`; in a clip at test the supports before
                it. In training, and where `per_key_frame`, the key frame (of role KEY) and the other supports.
        """
        return {}

    def features_in_context(self, context: TemporalContext, supports: Sequence[int]) -> list[dict[str, Tensor]] | None:
        """`support_features` of some supports for a key frame that is none of the context's frames.

        Asked for where `per_key_frame`, in inference. One whose supports look at each other, and at the key frame only
        where that is one of them, returns their maps: key frames that have the same context then share what is made of
        its frames. None, as here, if they depend on any key frame.

        Args:
            context: as in `forward`, without role KEY and without what is carried.
            supports: numbers of those of its frames whose proposals are to be made.

        Returns:
            {stage: (1, C, H, W)} of each of the supports, or None.
        """
        return None

    def forward_clip(
        self, key: Frame, context: TemporalContext, supports: Sequence[int]
    ) -> tuple[Aggregated[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """`forward` of the key frame and `support_features` of some supports; one that can share work overrides this.

        Args:
            key, context: as in `forward`.
            supports: numbers of those of the context's frames, none of role KEY, whose proposals are to be made.
        """
        maps = []
        for number in supports:
            seen = self._seen_by_support(number, key, context)
            maps.append(self.support_features(context.frames[number], seen))
        return self(key, context), maps

    def _seen_by_support(self, number: int, key: Frame, context: TemporalContext) -> TemporalContext:
        """What frame `number` of a clip may look at: the rest of the clip, or what had entered a memory before it."""
        # Role KEY is the key frame itself: where it is seen, it is put in below.
        others = [row for row, role in enumerate(context.roles) if row != number and role is not Role.KEY]
        # A training clip has no order of arrival; and maps that depend on the key frame see it in a stream, too.
        if self.training or self.per_key_frame:
            rest = context.at(others)
            return TemporalContext((key, *rest.frames), (Role.KEY, *rest.roles), rest.carry)
        # A frame that enters a memory does not see those that come after it, the key frame among them.
        return context.at([row for row in others if row < number])

    @abstractmethod
    def forward(self, key: Frame, context: TemporalContext) -> Aggregated[dict[str, Tensor]]:
        """key and context hold what `encode` made -> {stage: (1, C, H, W)}; with T = 0 the key's own map unchanged."""


STAGES = ("res2", "res3", "res4", "res5", "head_map")
"""Outputs of a backbone that may be aggregated, in their order."""


def aggregated_stage(cfg: CfgNode, shapes: dict[str, ShapeSpec], stage: str, key: str) -> str:
    """`stage`, the value of the configuration key `key`, if RPN and heads read it or what the backbone makes of it.

    Raises:
        UserError: if the backbone has no such output, or RPN or heads read one before it.
    """
    available = [name for name in STAGES if name in shapes]
    if stage not in available:
        raise UserError(f"{key} is {stage!r}: the backbone {cfg.MODEL.BACKBONE.NAME} has {', '.join(available)}")
    # A map from before the stage would stay without context, and nothing would say so.
    named_by = maps_read(cfg)
    before = [level for level in named_by if level in STAGES[: STAGES.index(stage)]]
    if before:
        raise UserError(
            f"{key} is {stage!r}, but {named_by[before[0]]} names {before[0]!r}, which the backbone makes before it: "
            f"set {key} to {before[0]!r}, or name later maps"
        )
    return stage


def build_pixel_aggregator(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> PixelAggregator | None:
    """The aggregator that the configuration names, or None.

    Args:
        shapes: of the backbone's outputs, and of the maps between as `block_shapes` names them, where one reads these.
    """
    name = cfg.MODEL.VIDEO.PIXEL_AGGREGATOR.NAME
    if not name:
        return None
    if not any(stage in shapes for stage in STAGES):
        raise UserError(
            f"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME is {name!r}, which needs one map of a ResNet ({', '.join(STAGES)}), "
            f"but the backbone {cfg.MODEL.BACKBONE.NAME} gives {', '.join(shapes)}: take a ResNet without a "
            "pyramid, as COCO/FasterRCNN_R50_DC5.yaml has, or a MODEL.VIDEO.PROPOSAL_AGGREGATOR"
        )
    kind = lookup(PIXEL_AGGREGATOR_REGISTRY, name, "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME")
    with settings(name):
        aggregator = kind(cfg, shapes)
    honour_old_names(aggregator)
    return aggregator
