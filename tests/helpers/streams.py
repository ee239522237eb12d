"""The same video as a stream of steps, as clips that hold their whole window, and as the test loader yields it."""

from collections.abc import Iterator

from torch import Tensor

from vod2.d2 import Instances
from vod2.modeling import VideoRCNN
from vod2.temporal import FrameMemory, NoWindow, SupportSchedule


def detect_as_stream(
    model: VideoRCNN, video: list[Tensor], schedule: SupportSchedule, name: str = "video"
) -> Iterator[Instances]:
    """The detections of each frame; every frame is given to the model once."""
    memory = FrameMemory(schedule)
    memory.start(name, len(video))
    for t in range(len(video)):
        yield model.step(step_clip(video, t, memory), memory)["instances"]


def step_clip(video: list[Tensor], t: int, memory: FrameMemory) -> dict:
    """What a loader yields for frame t: images of the frames that `memory` does not hold."""
    clip = {"video_id": memory.video, "frame_index": t, "video_length": len(video), "support": []}
    for index in memory.missing(t):
        if index == t:
            clip["image"] = video[t]
        else:
            clip["support"].append({"image": video[index], "frame_index": index})
    return clip


def window_clip(video: list[Tensor], t: int, schedule: SupportSchedule, name: str = "video") -> dict:
    """Frame t with the whole of its window as supports."""
    support = [
        {"image": video[index], "frame_index": index, "role": role}
        for index, role in schedule.window(t, len(video), name)
    ]
    return {"image": video[t], "video_id": name, "frame_index": t, "video_length": len(video), "support": support}


def loader_clips(video: list[Tensor], schedule: SupportSchedule, name: str = "video") -> Iterator[dict]:
    """What the test loader yields: each clip with only its new frames."""
    for t in range(len(video)):
        previous = t - 1 if t else None
        new = schedule.new(t, len(video), name, previous)
        clip = {"video_id": name, "frame_index": t, "video_length": len(video), "previous_index": previous}
        if t in new:
            clip["image"] = video[t]
        yield clip | {"support": [{"image": video[i], "frame_index": i} for i in new if i != t]}


def lone_clips(video: list[Tensor], name: str = "video") -> Iterator[dict]:
    """The same with TEST.CONTEXT "none"."""
    return loader_clips(video, NoWindow(), name)


def foreign_clips(
    video: list[Tensor], other: list[Tensor], schedule: SupportSchedule, name: str = "video"
) -> Iterator[dict]:
    """The same with TEST.CONTEXT "foreign", where the `other` video has as many frames."""
    for clip in loader_clips(other, schedule, name):
        t = clip["frame_index"]
        if "image" in clip:
            clip["support"].append({"image": clip["image"], "frame_index": t})
        yield clip | {"image": video[t], "context_video": "other"}
