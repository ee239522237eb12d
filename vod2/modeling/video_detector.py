"""A detector that looks at other frames: the whole story, whatever makes its boxes.

B: clips, T: supports of a clip. Boxes are xyxy in pixels of the resized image until they leave the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vod2.d2 import CfgNode, GeneralizedRCNN, Instances, configurable
from vod2.errors import UserError
from vod2.modeling.aggregation import Aggregated, mean_losses, merge_disjoint
from vod2.modeling.backbone import block_shapes, split_maps, stages_of
from vod2.modeling.box_source import BoxSource
from vod2.modeling.clips import images_of, make_clips
from vod2.modeling.exact_buffers import ExactBuffers
from vod2.modeling.freezing import FREEZE, freeze_detector, keep_statistics
from vod2.modeling.legacy import CURRENT_CONVENTIONS, LegacyConventions
from vod2.modeling.modes import require_eval
from vod2.modeling.pixel import PixelAggregator, build_pixel_aggregator, enhance_clips
from vod2.modeling.preprocessing import PortablePadding
from vod2.modeling.propose import embed_context, prepare_supports, propose_clips
from vod2.modeling.roi_heads import HeadOutput, VideoHeads
from vod2.modeling.unused import with_zero_gradients
from vod2.structures import Clip, Frame, Role, Support, TemporalContext
from vod2.structures.derived import LayerState
from vod2.temporal import FrameMemory


class VideoDetector(ExactBuffers, PortablePadding, GeneralizedRCNN):
    """What detectors of clips have in common, whatever their boxes come from. It holds no state of a video.

    A clip is Detectron2's dict (image, height, width, in training instances) plus video_id, frame_index and
    support: [{image, frame_index, role}], in training perhaps ignore_regions (G, 4) xyxy in pixels of the image.
    `VideoRCNN` has an RPN and pools from its boxes, `VideoOneStage` takes the best boxes of a dense head.
    """

    proposal_generator: BoxSource
    roi_heads: VideoHeads

    @configurable
    def __init__(
        self,
        *,
        pixel_aggregator: PixelAggregator | None = None,
        conventions: LegacyConventions = CURRENT_CONVENTIONS,
        freeze: str = "",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            pixel_aggregator: level 1, or None.
            conventions: of the code that trained the weights.
            freeze: "detector" where the aggregators alone learn, else "".
            kwargs: what `GeneralizedRCNN` takes.
        """
        super().__init__(**kwargs)
        # GeneralizedRCNN makes float32 buffers of these: .double() alone would keep their rounding.
        self.keep_exact(pixel_mean=kwargs["pixel_mean"], pixel_std=kwargs["pixel_std"])
        self.pixel_aggregator = pixel_aggregator
        self.require_parts()
        if pixel_aggregator is not None and self.roi_heads.needs.feature_maps:
            # A memory holds the maps from before level 1, a clip those from after it.
            raise UserError(
                f"{type(self.roi_heads).__name__} or their aggregator look at the feature maps of supports, which "
                "level 1 would change: set MODEL.VIDEO.PIXEL_AGGREGATOR.NAME to '', it builds "
                f"{type(pixel_aggregator).__name__}"
            )
        self.conventions = conventions
        conventions.configure(self.backbone)
        if freeze not in FREEZE:
            raise UserError(f"MODEL.FREEZE is {freeze!r}: expected one of {', '.join(map(repr, FREEZE))}")
        self.frozen = freeze == "detector"
        if self.frozen:
            freeze_detector(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        ret = super().from_config(cfg)
        backbone = ret["backbone"]
        pixel_aggregator = build_pixel_aggregator(cfg, backbone.output_shape() | block_shapes(backbone))
        if pixel_aggregator is not None:
            stages_of(backbone)  # an error now, not at the first image
        ret |= {"pixel_aggregator": pixel_aggregator, "conventions": LegacyConventions.from_config(cfg)}
        return ret | {"freeze": cfg.MODEL.FREEZE}

    def require_parts(self) -> None:
        """Make sure that the parts are of the kinds that this detector needs; here any will do.

        Raises:
            UserError: one is not.
        """

    def train(self, mode: bool = True) -> "VideoDetector":
        """As in PyTorch; a frozen detector keeps the statistics of its normalisation."""
        super().train(mode)
        if mode and self.frozen:
            keep_statistics(self)
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """B clips -> losses in training, else B times {"instances": Instances} in original pixels.

        Every parameter that learns gets a gradient from the losses, 0 where these clips do not use it.
        """
        if not self.training:
            return self.inference(batched_inputs)
        losses = self._detect(self.read_clips(batched_inputs)).losses
        if self.frozen:
            # Those of what stays as it is: nothing can make them smaller.
            losses = {name: loss for name, loss in losses.items() if loss.requires_grad}
        return with_zero_gradients(losses, self.parameters())

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list:
        """B clips, each with its whole context in `support`; a stream is cheaper with `step`."""
        if detected_instances is not None:
            raise ValueError(f"{type(self).__name__} makes its own boxes: detected_instances is not supported")
        instances = self._detect(self.read_clips(batched_inputs)).instances
        if not do_postprocess:
            # Without height and width a clip has the size of its resized image: nothing is scaled.
            return [self._rescale(detections, {}) for detections in instances]
        return [{"instances": self._rescale(*pair)} for pair in zip(instances, batched_inputs, strict=True)]

    @torch.no_grad()
    def step(self, clip: dict, memory: FrameMemory) -> dict:
        """One frame of a stream: encode what is new in `clip` and not in the memory's store, detect in its key frame.

        `clip` needs no image where the memory already holds the key frame. The memory must have been started with
        the clip's video. Returns {"instances": Instances} in original pixels; where the aggregator keeps relations they
        have `next_relation` (n, K), see `next_relations`.

        Raises:
            RuntimeError: if the model is in training mode.
            ValueError: if a frame of the window was neither in the memory nor in `clip`.
        """
        new_frames = list(clip.get("support", ()))
        if "image" in clip:
            new_frames.insert(0, clip)
        for image in new_frames:  # one by one: the first window of a video may be large
            if not memory.restore(image["frame_index"]):
                self.remember([image], [memory])
        return self.detect_from(memory, clip)

    @torch.no_grad()
    def remember(self, inputs: Sequence[dict], memories: Sequence[FrameMemory]) -> None:
        """Encode a new frame {image, frame_index} of each of several streams in one call of the backbone.

        Each is put into the memory of its stream. Images of different sizes are padded to the largest; a pixel
        aggregator needs maps of one size throughout a stream, so there give images of one size at once.

        Raises:
            RuntimeError: if the model is in training mode.
        """
        require_eval(self)
        # The memory refuses frames of another video, and the dicts of a live stream need not name theirs.
        named = [{**image, "video_id": memory.video} for image, memory in zip(inputs, memories, strict=True)]
        frames = self.encode(named)
        parts = self.backbone, self.pixel_aggregator, self.proposal_generator, self.roi_heads
        supports = prepare_supports(*parts, frames, [memory.cached_context() for memory in memories])
        for support, memory in zip(supports, memories, strict=True):
            memory.put(support)

    @torch.no_grad()
    def detect_from(self, memory: FrameMemory, clip: dict) -> dict:
        """Detect in the key frame of `clip` (frame_index, height, width), for which all has been remembered.

        Returns and raises what `step` does.
        """
        require_eval(self)
        context = memory.context(clip["frame_index"])  # first: it names the frames that are missing
        key = memory.frame(clip["frame_index"])
        if self._key_frames_share(context, key):
            context = memory.shared(context, LayerState.of(self), self._embed_context)
        output = self._detect([Clip(key, context, inputs=clip)])
        # A stream has one carry for both levels.
        memory.carry(merge_disjoint(result.carry for result in output.aggregated))
        return {"instances": self._rescale(output.instances[0], clip)}

    def _key_frames_share(self, context: TemporalContext, key: Frame) -> bool:
        """Whether proposals are still to be made of a context that does not have the key frame in it.

        Level 1 then says whether they are the same for another key frame (`features_in_context`).
        """
        if self.pixel_aggregator is None or not self._supports_have_proposals or len(context) == 0:
            return False
        of_other_frames = all(
            role is not Role.KEY and frame.index != key.index and not frame.is_embedded
            for frame, role in zip(context.frames, context.roles, strict=True)
        )
        return self.pixel_aggregator.per_key_frame and of_other_frames

    def _embed_context(self, context: TemporalContext) -> TemporalContext | None:
        assert self.pixel_aggregator is not None
        return embed_context(self.backbone, self.pixel_aggregator, self.proposal_generator, self.roi_heads, context)

    def _detect(self, clips: Sequence[Clip]) -> HeadOutput:
        """What follows `encode`: encoded clips -> instances, or losses in training, and what both levels returned."""
        clips, enhanced = self.enhance_clips(clips)
        clips, proposal_losses = self.propose_clips(clips)
        aggregated = self.roi_heads.aggregate(clips)
        instances, losses = self.roi_heads.predict(clips, aggregated)
        return HeadOutput(instances, mean_losses(enhanced) | proposal_losses | losses, [*enhanced, *aggregated])

    def read_clips(self, batched_inputs: Sequence[dict]) -> list[Clip]:
        """The dicts of B clips -> clips whose frames are encoded, all at once."""
        # Boxes come in with training clips only; those that come out are converted in `_rescale`.
        inputs = list(batched_inputs)
        if self.training:
            inputs = [self.conventions.training_input(clip) for clip in inputs]
        return make_clips(inputs, self.encode(images_of(inputs)), self.training, self.device)

    def encode(self, inputs: Sequence[dict]) -> list[Frame]:
        """Images (3, H, W) of any clips -> frames with feature maps, in one call of the backbone.

        Where there is a pixel aggregator, it decides what is computed of each.
        """
        images = self.preprocess_image(list(inputs))
        if self.pixel_aggregator is None:
            maps = split_maps(self.backbone(images.tensor))
        else:
            supports = [Support(image.get("frame_index", 0), image.get("role")) for image in inputs]
            maps = self.pixel_aggregator.encode(self.backbone, images.tensor, supports)
        # `image_sizes` are those before padding: boxes are clipped to them.
        frames = []
        for image, size, features in zip(inputs, images.image_sizes, maps, strict=True):
            video = str(image.get("video_id", ""))  # a still image needs none
            frames.append(Frame(video, image.get("frame_index", 0), (size[0], size[1]), features))
        return frames

    def enhance_clips(self, clips: Sequence[Clip]) -> tuple[list[Clip], list[Aggregated]]:
        """Level 1: clips with aggregated maps, and what was returned for each key frame; [] where there is none."""
        if self.pixel_aggregator is None:
            return list(clips), []
        return enhance_clips(self.backbone, self.pixel_aggregator, clips, self._supports_have_proposals)

    def propose_clips(self, clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, Tensor]]:
        """The clips with embedded proposals of all frames that somebody asks for, and the losses of the RPN."""
        return propose_clips(self.proposal_generator, self.roi_heads, clips, self._supports_have_proposals)

    @property
    def _supports_have_proposals(self) -> bool:
        """Level 1 looks at maps only: without level 2 nobody asks for the proposals of a support."""
        return self.pixel_aggregator is None or self.roi_heads.aggregator is not None

    def _rescale(self, instances: Instances, clip: dict) -> Instances:
        """Scale to the original size: the clip's height and width, or the resized image's where it has none."""
        height, width = instances.image_size
        return self.conventions.rescaled(instances, (clip.get("height", height), clip.get("width", width)))
