"""What the contracts of proposal aggregators and of pixel aggregators have in common."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor

from helpers.device import autocast
from helpers.models import assert_same_detections, make_targets, make_video
from helpers.streams import detect_as_stream, foreign_clips, lone_clips, step_clip, window_clip
from vod2.d2 import EventStorage
from vod2.evaluation import StreamingModel
from vod2.modeling import VideoDetector
from vod2.structures import Frame, ProposalSet, Role, TemporalContext
from vod2.temporal import FrameMemory, SlidingWindow, SupportSchedule


def losses_of_step(model: VideoDetector, inputs: list[dict], seed: int = 0) -> dict[str, Tensor]:
    """One training step; the seed decides which anchors and RoIs are sampled."""
    torch.manual_seed(seed)
    with EventStorage():
        return model(inputs)


def reordered(context: TemporalContext, order: list[int]) -> TemporalContext:
    return TemporalContext(
        tuple(context.frames[i] for i in order), tuple(context.roles[i] for i in order), context.carry
    )


def tensors_of(*parts: Frame | TemporalContext | ProposalSet | None) -> list[Tensor]:
    """Every tensor in these."""
    tensors = []
    for part in parts:
        if isinstance(part, TemporalContext):
            tensors += [*part.carry.values(), *tensors_of(*part.frames)]
        elif isinstance(part, Frame):
            tensors += [*part.features.values(), *tensors_of(part.proposals)]
        elif isinstance(part, ProposalSet):
            tensors += [part.boxes, part.features, part.scores, part.frame]
            tensors += part.fields.values()
    return tensors


class Untouched:
    """Remembers tensors; `check` finds those that were written to since."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.before = [(tensor, tensor.clone(), tensor._version) for tensor in tensors]

    def check(self) -> None:
        assert self.before, "a comparison of nothing proves nothing"
        for tensor, clone, version in self.before:
            assert tensor.equal(clone) and tensor._version == version


def check_stream_equals_clips(model: VideoDetector, schedule: SupportSchedule, tolerance: float) -> None:
    """Frames fed one by one through the memory give what the whole window in one clip gives."""
    video = make_video(7)
    for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
        clip = model([window_clip(video, t, schedule)])[0]["instances"]
        assert_same_detections(streamed, clip, tolerance)


def check_stream_equals_clips_until_a_frame_leaves(
    model: VideoDetector, schedule: SupportSchedule, tolerance: float
) -> None:
    """The same for a model that carries something of the frames that have left the window, which a clip does not hold.

    As long as none has, a step gives what the clip gives; at the first frame after that it gives something else.
    """
    video, before = make_video(7), Counter()
    for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
        clip = model([window_clip(video, t, schedule)])[0]["instances"]
        window = Counter(index for index, role in schedule.window(t, len(video), "video") if role is Role.LOCAL)
        if before - window:
            with pytest.raises(AssertionError):
                assert_same_detections(streamed, clip, tolerance)
            return
        assert_same_detections(streamed, clip, tolerance)
        before = window


def check_interleaved_videos(model: VideoDetector, schedule: SupportSchedule) -> None:
    """Two videos whose frames take turns give what each gives alone."""
    videos = {"first": make_video(5, seed=1), "second": make_video(5, seed=2)}
    memories = {}
    for name, video in videos.items():
        memories[name] = FrameMemory(schedule)
        memories[name].start(name, len(video))
    together = {name: [] for name in videos}
    for t in range(5):
        for name, video in videos.items():
            clip = step_clip(video, t, memories[name])
            together[name].append(model.step(clip, memories[name])["instances"])
    for name, video in videos.items():
        for actual, expected in zip(together[name], detect_as_stream(model, video, schedule, name), strict=True):
            assert_same_detections(actual, expected)


def check_memory_is_left_as_it_was(model: VideoDetector, schedule: SupportSchedule) -> None:
    """What was put into the memory at frame 0 is not written to by frames 1 to 3."""
    video, memory = make_video(4), FrameMemory(schedule)
    memory.start("video", len(video))
    model.step(step_clip(video, 0, memory), memory)
    untouched = Untouched(tensors_of(memory.context(0)))
    for t in range(1, 4):
        model.step(step_clip(video, t, memory), memory)
    untouched.check()


def check_gradients(
    model: VideoDetector, clip: dict, no_gradient: tuple[str, ...], others: Sequence[dict] = ()
) -> None:
    """One training step on the clip gives every parameter a finite gradient, and one that is not 0.

    `no_gradient`: ends of the names of parameters whose gradient is 0 by construction. `others`: further clips of the
    batch, with instances.
    """
    losses = losses_of_step(model.train(), [clip | {"instances": make_targets()}, *others])
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
        if not name.endswith(no_gradient or ("\0",)):
            assert parameter.grad.ne(0).any(), f"the gradient of {name} is 0"


def check_autocast(model: VideoDetector, schedule: SupportSchedule, dtype: torch.dtype) -> None:
    """The whole detector detects something finite in half precision."""
    with autocast(dtype):
        for instances in detect_as_stream(model, make_video(3), schedule):
            assert len(instances) > 0
            assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()


def check_context_none(model: VideoDetector, schedule: SupportSchedule) -> None:
    """Without context a frame is detected exactly as the only frame of a video; nothing is left of those before it."""
    video = make_video(3)
    alone = StreamingModel(model, schedule, "none")
    for image, clip in zip(video, lone_clips(video), strict=True):
        (still,) = detect_as_stream(model, [image], schedule)
        assert_same_detections(alone([clip])[0]["instances"], still)


def check_context_foreign(model: VideoDetector, schedule: SupportSchedule) -> None:
    """A frame is detected exactly as if it stood in its place in the other video; nothing is left of those before it.

    Of an own frame that a causal stream of the other video meets at t, nothing before t can know. So this reference
    holds for what is carried, too; schedules that look ahead are tested with StreamingModel.
    """
    causal = schedule if schedule.lookahead == 0 else SlidingWindow(2, lookahead=0)
    video, other = make_video(5, seed=1), make_video(5, seed=2)
    among = StreamingModel(model, causal, "foreign")
    for t, clip in enumerate(foreign_clips(video, other, causal)):
        found = among([clip])[0]["instances"]
        if t in (1, 3, 4):
            mixed = [*other[:t], video[t], *other[t + 1 :]]
            assert_same_detections(found, list(detect_as_stream(model, mixed, causal))[t])
