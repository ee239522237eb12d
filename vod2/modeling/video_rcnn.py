"""A two-stage detector that looks at other frames: the whole story.

B: clips, T: supports of a clip. Boxes are xyxy in pixels of the resized image until they leave the model.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vod2.d2 import (
    META_ARCH_REGISTRY,
    CfgNode,
    FrozenBatchNorm2d,
    GeneralizedRCNN,
    ImageList,
    Instances,
    configurable,
    detector_postprocess,
)
from vod2.errors import UserError
from vod2.layers import inclusive
from vod2.modeling.aggregation import Aggregated, mean_losses, merged, next_relations
from vod2.modeling.backbone import later_outputs, resume
from vod2.modeling.clips import (
    classes_of,
    context_of,
    contexts_with,
    half_open_targets,
    ignored_in,
    images_of,
    roles_of,
    seen_by_supports,
    support_sources,
    supports_of,
    with_ids,
)
from vod2.modeling.pixel import PixelAggregator, build_pixel_aggregator
from vod2.modeling.roi_heads import VideoROIHeads
from vod2.modeling.unused import with_zero_gradients
from vod2.modeling.video_rpn import VideoRPN
from vod2.structures import Frame, PreciseBoxes, ProposalSet, Support, TemporalContext
from vod2.temporal import FrameMemory


@META_ARCH_REGISTRY.register()
class VideoRCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` for clips. It needs a `VideoRPN` and `VideoROIHeads`, and holds no state of a video.

    A clip is Detectron2's dict (image, height, width, in training instances) plus video_id, frame_index and
    support: [{image, frame_index, role}], in training perhaps ignore_regions (G, 4) xyxy in pixels of the image.
    Without aggregators it is the image detector with the same parameters.

    Example:
        >>> import torch
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> model = build_model(load_config("configs/quick/RDN.yaml")).eval()
        >>> frame = torch.zeros(3, 64, 96, dtype=torch.uint8)
        >>> clip = {"image": frame, "support": [{"image": frame, "frame_index": 1}]}
        >>> sorted(model([clip])[0]["instances"].get_fields())
        ['pred_boxes', 'pred_classes', 'proposal_index', 'scores']
    """

    @configurable
    def __init__(
        self, *, pixel_aggregator: PixelAggregator | None = None, inclusive_boxes: bool = False, **kwargs
    ) -> None:
        """
        Args:
            pixel_aggregator: level 1, or None.
            inclusive_boxes: boxes of targets and detections include their last pixel, see `vod2.layers.half_open`.
            kwargs: those of `GeneralizedRCNN`.
        """
        super().__init__(**kwargs)
        self._statistics = kwargs["pixel_mean"], kwargs["pixel_std"]
        self.inclusive_boxes = inclusive_boxes
        if not isinstance(self.proposal_generator, VideoRPN):
            raise UserError("VideoRCNN needs MODEL.PROPOSAL_GENERATOR.NAME 'VideoRPN'")
        if not isinstance(self.roi_heads, VideoROIHeads):
            raise UserError("VideoRCNN needs MODEL.ROI_HEADS.NAME 'VideoROIHeads' or 'RFCNHeads'")
        self.pixel_aggregator = pixel_aggregator

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        ret = super().from_config(cfg)
        ret["pixel_aggregator"] = build_pixel_aggregator(cfg, ret["backbone"].output_shape())
        ret["inclusive_boxes"] = cfg.MODEL.LEGACY.INCLUSIVE_BOXES
        for module in ret["backbone"].modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = cfg.MODEL.LEGACY.FROZEN_BN_EPS
        return ret

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """B clips -> losses in training, else B times {"instances": Instances} in original pixels.

        Every parameter that learns gets a gradient from the losses, 0 where these clips do not use it.
        """
        if not self.training:
            return self.inference(batched_inputs)
        plain, contexts = self._clips(batched_inputs)
        plain = [key.with_(classes=classes_of(clip)) for key, clip in zip(plain, batched_inputs, strict=True)]
        if self.inclusive_boxes:
            batched_inputs = [half_open_targets(clip) for clip in batched_inputs]
        targets = [clip["instances"].to(self.device) for clip in batched_inputs]
        ignored = ignored_in(batched_inputs, self.device)
        keys, contexts, enhanced = self._enhance_clips(plain, contexts)
        keys, contexts, rpn_losses = self._propose_clips(keys, contexts, targets, ignored)
        keys, contexts = self._identified(keys, contexts, batched_inputs)
        losses = mean_losses(enhanced) | rpn_losses | self.roi_heads.detect(keys, contexts).losses
        return with_zero_gradients(losses, self.parameters())

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """B clips, each with its whole context in `support`; a stream is cheaper with `step`."""
        if detected_instances is not None:
            raise ValueError("VideoRCNN makes its own boxes: detected_instances is not supported")
        plain, contexts = self._clips(batched_inputs)
        keys, contexts, _ = self._enhance_clips(plain, contexts)
        keys, contexts, _ = self._propose_clips(keys, contexts, None)
        instances = self.roi_heads.detect(keys, contexts).instances
        if not do_postprocess:
            return [self._finish(one, {}) for one in instances]
        return [{"instances": self._finish(one, clip)} for one, clip in zip(instances, batched_inputs, strict=True)]

    @torch.no_grad()
    def step(self, clip: dict, memory: FrameMemory) -> dict:
        """One frame of a stream: encode what is new in `clip`, detect in its key frame from memory.

        `clip` needs no image where the memory already holds the key frame. The memory must have been started with
        the clip's video. Returns {"instances": Instances} in original pixels; where the aggregator keeps relations they
        have `next_relation` (n, K), see `next_relations`.

        Raises:
            RuntimeError: if the model is in training mode.
            ValueError: if a frame of the window was neither in the memory nor in `clip`.
        """
        fresh = ([clip] if "image" in clip else []) + list(clip.get("support", ()))
        for one in fresh:  # one by one: the first window of a video may be large
            self.remember([one], [memory])
        return self.detect_from(memory, clip)

    @torch.no_grad()
    def remember(self, inputs: Sequence[dict], memories: Sequence[FrameMemory]) -> None:
        """Encode a new frame {image, frame_index} of each of several streams in one call of the backbone.

        Each is put into the memory of its stream. Images of different sizes are padded to the largest; a pixel
        aggregator needs maps of one size throughout a stream, so there give images of one size at once.

        Raises:
            RuntimeError: if the model is in training mode.
        """
        self._require_eval()
        named = [{**one, "video_id": memory.video} for one, memory in zip(inputs, memories, strict=True)]
        frames = self.encode(named)
        if self._is_joint:
            frames = self._with_boxes(frames) if self._boxes_stay else frames
        elif self._supports_have_proposals and not self._supports_enter_anew:
            proposed, _ = self.propose(self._enter(frames, [memory.held() for memory in memories]))
            frames = [
                done.with_(features=self._kept(frame.features)) for frame, done in zip(frames, proposed, strict=True)
            ]
        for frame, memory in zip(frames, memories, strict=True):
            memory.put(frame)

    @torch.no_grad()
    def detect_from(self, memory: FrameMemory, clip: dict) -> dict:
        """Detect in the key frame of `clip` (frame_index, height, width), for which all has been remembered.

        Returns and raises what `step` does.
        """
        self._require_eval()
        context = memory.context(clip["frame_index"])
        keys, enhanced = [memory.frame(clip["frame_index"])], []
        if self._is_joint:
            key, context = self._enhance_sample(keys[0], context)
            keys = [key]
        elif self.pixel_aggregator is not None:
            plain = keys
            keys, enhanced = self.enhance(plain, [context])
            if self._supports_enter_anew:
                keys, (context,), _ = self._propose_clips(keys, self._enter_clips(plain, [context]), None)
            else:
                keys, _ = self.propose(keys)
        found = self.roi_heads.detect(keys, [context])
        memory.carry(merged(one.carry for one in (*enhanced, *found.aggregated)))
        instances, relations = found.instances[0], found.aggregated[0].relations
        if relations is not None:
            table = next_relations(relations, context, clip["frame_index"], self.roi_heads.support_topk)
            instances.next_relation = table[instances.proposal_index]
        return {"instances": self._finish(instances, clip)}

    def preprocess_image(self, batched_inputs: Sequence[dict]) -> ImageList:
        """Detectron2's: normalise, pad and stack the images; in float64 by numbers that were not rounded before."""
        if self.pixel_mean.dtype == torch.float64:
            for buffer, values in zip((self.pixel_mean, self.pixel_std), self._statistics, strict=True):
                exact = torch.tensor(values, dtype=torch.float64, device=buffer.device).view_as(buffer)
                if buffer.equal(exact.float().double()):  # as it was built, and not another one
                    buffer.copy_(exact)
        return super().preprocess_image(batched_inputs)

    def encode(self, inputs: Sequence[dict]) -> list[Frame]:
        """Images (3, H, W) of any clips -> frames with feature maps, in one call of the backbone.

        Where there is a pixel aggregator, it decides what is computed of each.
        """
        images = self.preprocess_image(inputs)
        if self.pixel_aggregator is None:
            features = self.backbone(images.tensor)
            maps = [{name: value[row : row + 1] for name, value in features.items()} for row in range(len(inputs))]
        else:
            named = [Support(one.get("frame_index", 0), one.get("role")) for one in inputs]
            maps = self.pixel_aggregator.encode(self.backbone, images.tensor, named)
        return [
            Frame(str(one.get("video_id", "")), one.get("frame_index", 0), tuple(size), features)
            for one, size, features in zip(inputs, images.image_sizes, maps, strict=True)
        ]

    def enhance(
        self, keys: Sequence[Frame], contexts: Sequence[TemporalContext]
    ) -> tuple[list[Frame], list[Aggregated]]:
        """Level 1: the key frames with aggregated feature maps, and what the aggregator returned for each.

        Without a pixel aggregator, the key frames as they are and an empty list.
        """
        if self.pixel_aggregator is None:
            return list(keys), []
        found = [self.pixel_aggregator(key, context) for key, context in zip(keys, contexts, strict=True)]
        return self._replaced(keys, [one.value for one in found]), found

    def propose(
        self,
        frames: Sequence[Frame],
        targets: Sequence[Instances | None] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Frame], dict[str, Tensor]]:
        """The frames with embedded proposals, and the losses of the RPN on those with targets.

        `ignored` are the ignore regions (G, 4) of each frame, or None: what lies there is not sampled as background.
        Feature maps are dropped where nothing will look at them again.
        """
        features = _levels(frames, [*self.proposal_generator.in_features, *self.roi_heads.box_in_features])
        sizes = [frame.image_size for frame in frames]
        proposals, losses = self.proposal_generator.propose(sizes, features, targets, ignored)
        proposals = self.roi_heads.select(proposals, targets, ignored)
        embedded = self.roi_heads.embed(features, proposals)
        known = [None] * len(frames) if targets is None else targets
        done = [
            frame.with_(
                features=self._kept(frame.features), proposals=embedding, targets=None if target is None else one
            )
            for frame, one, embedding, target in zip(frames, proposals, embedded, known, strict=True)
        ]
        return done, losses

    def _enter(self, frames: Sequence[Frame], contexts: Sequence[TemporalContext]) -> list[Frame]:
        """Supports with the feature maps that their proposals are to be made of."""
        if self.pixel_aggregator is None:
            return list(frames)
        maps = [self.pixel_aggregator.enter(frame, context) for frame, context in zip(frames, contexts, strict=True)]
        return self._replaced(frames, maps) if any(maps) else list(frames)

    def _replaced(self, frames: Sequence[Frame], maps: Sequence[dict[str, Tensor]]) -> list[Frame]:
        """The frames with new maps of level 1's stage, where it replaces that, and what the backbone makes of these."""
        stage = self.pixel_aggregator.stage
        later = resume(self.backbone, stage, _together([one[stage] for one in maps]))
        replaced = []
        for row, (frame, one) in enumerate(zip(frames, maps, strict=True)):
            own = one if self.pixel_aggregator.replaces_stage else {}
            rest = {name: x[row : row + 1] for name, x in later.items()}
            replaced.append(frame.with_(features=frame.features | own | rest))
        return replaced

    def _enhance_sample(self, key: Frame, context: TemporalContext) -> tuple[Frame, TemporalContext]:
        """In a stream, the key frame and its context with the proposals that they have in this context (`joint`)."""
        frames = {frame.index: frame for frame in context.frames} if self._supports_have_proposals else {}
        if self._boxes_stay:  # as in training, no more of a support is embedded than is looked at
            best = self.roi_heads.support_topk
            frames = {index: frame.with_(proposals=frame.proposals.top(best)) for index, frame in frames.items()}
        frames[key.index] = key
        maps = self.pixel_aggregator.forward_all(list(frames.values()), context)
        enhanced = self._replaced(list(frames.values()), maps)
        done = self._embedded(enhanced) if self._boxes_stay else self.propose(enhanced)[0]
        frames = {frame.index: frame for frame in done}
        inside = tuple(frames.get(frame.index, frame) for frame in context.frames)
        return frames[key.index], TemporalContext(inside, context.roles, context.carry)

    def _with_boxes(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames with proposals that nothing has been pooled of: features (N, 0)."""
        features = _levels(frames, self.proposal_generator.in_features)
        proposals, _ = self.proposal_generator.propose([frame.image_size for frame in frames], features)
        boxes = [(one.proposal_boxes.tensor, one.objectness_logits) for one in proposals]
        return [
            frame.with_(proposals=ProposalSet.of_frame(box, box.new_empty(len(box), 0), score, frame.image_size))
            for frame, (box, score) in zip(frames, boxes, strict=True)
        ]

    def _embedded(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames of `_with_boxes` with their proposals embedded."""
        boxes = [
            Instances(
                frame.image_size,
                proposal_boxes=PreciseBoxes(frame.proposals.boxes),
                objectness_logits=frame.proposals.scores,
            )
            for frame in frames
        ]
        embedded = self.roi_heads.embed(_levels(frames, self.roi_heads.box_in_features), boxes)
        return [frame.with_(proposals=one) for frame, one in zip(frames, embedded, strict=True)]

    @property
    def _is_joint(self) -> bool:
        return self.pixel_aggregator is not None and self.pixel_aggregator.joint

    @property
    def _boxes_stay(self) -> bool:
        """Whether the RPN reads nothing that level 1 changes: then the context of a frame does not move its boxes."""
        stage = self.pixel_aggregator.stage
        changed = {*later_outputs(self.backbone, stage), *([stage] if self.pixel_aggregator.replaces_stage else [])}
        return changed.isdisjoint(self.proposal_generator.in_features)

    @property
    def _supports_have_proposals(self) -> bool:
        """Level 1 looks at maps only: without level 2 nobody asks for the proposals of a support."""
        return self.pixel_aggregator is None or self.roi_heads.aggregator is not None

    @property
    def _supports_enter_anew(self) -> bool:
        return self.pixel_aggregator is not None and self.pixel_aggregator.enters_anew

    def _kept(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The feature maps that something looks at after the proposals have been made."""
        if self.pixel_aggregator is not None:
            return features
        aggregator = self.roi_heads.aggregator
        levels = aggregator.training_levels if self.training and aggregator is not None else ()
        return {name: features[name] for name in levels}

    def _clips(self, batched_inputs: list[dict]) -> tuple[list[Frame], list[TemporalContext]]:
        """Encode the key frames and the supports of B clips at once."""
        frames = iter(self.encode(images_of(batched_inputs)))
        keys = [next(frames) for _ in batched_inputs]
        contexts = [context_of(key, frames, roles_of(clip)) for key, clip in zip(keys, batched_inputs, strict=True)]
        return keys, contexts

    def _enhance_clips(
        self, keys: list[Frame], contexts: list[TemporalContext]
    ) -> tuple[list[Frame], list[TemporalContext], list[Aggregated]]:
        """Level 1 for key frames and supports, and what the aggregator returned for each key frame, if it is asked."""
        if not self._is_joint:
            enhanced, found = self.enhance(keys, contexts)
            return enhanced, self._enter_clips(keys, contexts), found
        frames, maps = [], []
        for key, context in zip(keys, contexts, strict=True):
            sample = [key, *(supports_of([context]) if self._supports_have_proposals else ())]
            frames.append(sample)
            maps.append(self.pixel_aggregator.forward_all(sample, context))
        done = iter(self._replaced(sum(frames, []), sum(maps, [])))
        samples = [[next(done) for _ in sample] for sample in frames]
        keys = [key for key, *_ in samples]
        if self._supports_have_proposals:
            contexts = contexts_with(keys, (frame for _, *rest in samples for frame in rest), contexts)
        return keys, contexts, []

    def _enter_clips(self, keys: list[Frame], contexts: list[TemporalContext]) -> list[TemporalContext]:
        """The contexts with the feature maps that the proposals of supports are to be made of."""
        supports = supports_of(contexts)
        if self.pixel_aggregator is None or not self._supports_have_proposals or not supports:
            return contexts
        seen = [
            one
            for key, context in zip(keys, contexts, strict=True)
            for one in seen_by_supports(key, context, self.training or self._supports_enter_anew)
        ]
        return contexts_with(keys, self._enter(supports, seen), contexts)

    def _identified(
        self, keys: list[Frame], contexts: list[TemporalContext], batched_inputs: list[dict]
    ) -> tuple[list[Frame], list[TemporalContext]]:
        """In training, the frames with `ProposalSet.ids` where level 2 asks for them."""
        threshold = None if self.roi_heads.aggregator is None else self.roi_heads.aggregator.id_iou
        if threshold is None:
            return keys, contexts
        keys = [with_ids(key, clip, threshold) for key, clip in zip(keys, batched_inputs, strict=True)]
        supports = zip(supports_of(contexts), support_sources(batched_inputs), strict=True)
        return keys, contexts_with(keys, (with_ids(*one, threshold) for one in supports), contexts)

    def _propose_clips(
        self,
        keys: list[Frame],
        contexts: list[TemporalContext],
        targets: list[Instances] | None,
        ignored: list[Tensor | None] | None = None,
    ) -> tuple[list[Frame], list[TemporalContext], dict[str, Tensor]]:
        """`propose` for the key frames (with targets) and all supports (without) at once."""
        if not self._supports_have_proposals:
            keys, losses = self.propose(keys, targets, ignored)
            return keys, contexts, losses
        supports = supports_of(contexts)
        padded, regions = (None if one is None else [*one, *[None] * len(supports)] for one in (targets, ignored))
        frames, losses = self.propose([*keys, *supports], padded, regions)
        keys, supports = frames[: len(keys)], frames[len(keys) :]
        return keys, contexts_with(keys, supports, contexts), losses

    def _require_eval(self) -> None:
        if self.training:
            raise RuntimeError("VideoRCNN.step detects in a stream: call model.eval() first")

    def _finish(self, instances: Instances, clip: dict) -> Instances:
        """Scale to the original size: the clip's height and width, or the resized image's where it has none."""
        height, width = instances.image_size
        finished = detector_postprocess(instances, clip.get("height", height), clip.get("width", width))
        if self.inclusive_boxes:
            pixel = finished.image_size[1] / width, finished.image_size[0] / height
            finished.pred_boxes = PreciseBoxes(inclusive(finished.pred_boxes.tensor, pixel))
        return finished


def _levels(frames: Sequence[Frame], names: Iterable[str]) -> dict[str, Tensor]:
    """{level: (B, C, H, W)} of B frames."""
    # Only what is read: a map of the whole image takes as long to copy as a cheap layer to compute.
    return {name: _together([frame.features[name] for frame in frames]) for name in dict.fromkeys(names)}


def _together(maps: Sequence[Tensor]) -> Tensor:
    """B times (1, C, H, W) -> (B, C, H, W); one map is not copied."""
    return maps[0] if len(maps) == 1 else torch.cat(maps)
