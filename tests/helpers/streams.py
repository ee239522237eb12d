"""The same video as a stream of steps, and as clips that hold their whole window."""

from collections.abc import Iterator

from torch import Tensor

from vod2.d2 import Instances
from vod2.modeling import VideoRCNN
from vod2.temporal import FrameMemory, SupportSchedule


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
