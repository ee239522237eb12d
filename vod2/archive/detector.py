"""What a worker does: detecting in videos and segments, and joining segments."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from vod2.archive.inputs import Signature, signature_of
from vod2.archive.results import FrameRecord, result_file
from vod2.archive.segments import join
from vod2.archive.tasks import (
    Broken,
    Damaged,
    Done,
    Failed,
    JoinTask,
    Long,
    PartDone,
    Reply,
    Segment,
    SegmentTask,
    Task,
    VideoTask,
)
from vod2.checkpoint.public_file import sha256
from vod2.d2 import CfgNode
from vod2.engine import VideoPredictor
from vod2.engine.streams import DetectedFrame, link_stream
from vod2.errors import UserError, VideoError
from vod2.modeling import OnlineLinker, SeqNMS, build_box_linker
from vod2.video import MAX_PIXELS, VideoReader, read_ahead
from vod2.video.seeking import open_video, read_table
from vod2.video.untrusted import common_container


class Layout(NamedTuple):
    """Where the files of an archive are.

    Args:
        output: the folder of all.
        suffix: of results, one of `RESULT_FORMATS`.
        run: name of this run of the coordinator. What an earlier run has left half written is deleted, and what was
            still at it cannot write any more: its folder is gone.
    """

    output: Path
    suffix: str
    run: str

    @property
    def temporary(self) -> Path:
        """The folder that files are written in before they get their names."""
        return self.output / "temporary" / self.run

    def result(self, video: str) -> Path:
        """The result of a video, by its id; 256 folders share them."""
        return self.output / "results" / video[:2] / f"{video}.{self.suffix}"

    def parts(self, video: str) -> Path:
        """The folder of the part files of a video."""
        return self.output / "parts" / video

    def part(self, video: str, signature: Signature, segment: Segment) -> Path:
        """The part file of a segment. Its name says of what it is, so a file that is there need not be made again."""
        of_file = f"{signature.size}-{signature.mtime_ns}"
        return self.parts(video) / of_file / f"{segment.begin}-{segment.end}_{segment.first}-{segment.last}.jsonl"


class Settings(NamedTuple):
    """What results depend on, and where they go.

    Args:
        cfg: of the model, with MODEL.WEIGHTS.
        layout: of the files.
        class_names: by label.
        threshold: least score that is kept.
        link: window of the linker in frames; 0 for no tracks.
        fused: run the faster copy of the model, see `inference_copy`.
        segment_frames: longer videos are cut; 0 for none.
        threads: of a worker's CPU kernels.
        any_container: open whatever FFmpeg takes for a video, also lists of other files.
    """

    cfg: CfgNode
    layout: Layout
    class_names: Sequence[str]
    threshold: float = 0.0
    link: int = 0
    fused: bool = False
    segment_frames: int = 0
    threads: int = 1
    any_container: bool = False


class ArchiveDetector:
    """A `Runner` with one model.

    Args:
        settings: see there.
        device: of the model, such as "cpu" or "cuda:1".

    Raises:
        UserError: the weights or the configuration are wrong.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        torch.set_num_threads(settings.threads)
        cv2.setNumThreads(settings.threads)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        cfg = settings.cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = device
        self.settings = settings
        self.predictor = VideoPredictor(cfg, fused=settings.fused)
        self._linker = (build_box_linker(cfg) or SeqNMS()) if settings.link else None

    def run(self, task: Task) -> Reply:
        """See `Runner`."""
        begin = time.monotonic()
        try:
            reply = self._reply(task)
        except UserError as error:
            reply = Broken(_sentence(str(error)))
        except Exception as error:  # the others go on; the coordinator decides whether this one is tried again
            reply = Failed(_sentence(f"{type(error).__name__}: {error}"))
        return reply._replace(seconds=time.monotonic() - begin)

    def _reply(self, task: Task) -> Reply:
        if isinstance(task, SegmentTask):
            return self._segment(task)
        if isinstance(task, JoinTask):
            return self._join(task)
        return self._video(task)

    def _video(self, task: VideoTask) -> Reply:
        signature = signature_of(task.path)
        # Nobody has looked at each of a million videos. Segments are of files that have passed: see the signature.
        if not self.settings.any_container and not os.path.isdir(task.path):
            common_container(task.path, MAX_PIXELS)
        reader = VideoReader(task.path)
        if self.settings.segment_frames and not task.whole:
            length = reader.frame_count()
            reader.close()
            if length > self.settings.segment_frames:
                return Long(length, signature)
        with closing(read_ahead(reader.with_gaps())) as decoded:
            stream = self.predictor.stream(decoded, task.video)
            records = self._records(task.path, self._linked(self._sure(stream)), 0)
            done = self._write(task.video, records, signature)
        if signature_of(task.path) != signature:
            return Failed(f"{task.path!r} was changed while it was read")
        status = reader.status
        return done if status is None or status.state == "ok" else done._replace(note=_sentence(status.reason))

    def _segment(self, task: SegmentTask) -> Reply:
        layout, segment = self.settings.layout, task.segment
        path = layout.part(task.video, task.signature, segment)
        if path.is_file():  # of a run that was killed
            return PartDone()
        if signature_of(task.path) != task.signature:
            return Failed(f"{task.path!r} was changed while it was read")
        reader = VideoReader(task.path)
        frames = _Frames(reader, range(segment.begin, segment.end))
        try:
            with closing(read_ahead(frames)) as decoded, result_file(path, layout.temporary) as file:
                stream = self._sure(self.predictor.stream(decoded, task.video))
                whole = (frame for frame in stream if segment.first <= segment.begin + frame.index < segment.last)
                for record in self._records(task.path, self._linked(whole), segment.begin):
                    file.write(record)
        except VideoError:
            if frames.is_damaged:
                return Damaged()
            raise
        finally:
            reader.close()
        return PartDone()

    def _join(self, task: JoinTask) -> Reply:
        parts = [self.settings.layout.part(task.video, task.signature, segment) for segment in task.segments]
        return self._write(task.video, join(parts, task.segments), task.signature)

    def _write(self, video: str, records: Iterable[FrameRecord], signature: Signature) -> Done:
        layout = self.settings.layout
        frames = 0
        with result_file(layout.result(video), layout.temporary) as file:
            for record in records:
                file.write(record)
                frames += 1
        return Done(frames, sha256(os.fspath(layout.result(video))), signature)

    def _sure(self, stream: Iterable[DetectedFrame]) -> Iterator[DetectedFrame]:
        """With the detections whose score is at least the threshold, on the CPU."""
        for frame in stream:
            instances = frame.output["instances"].to("cpu")
            yield frame._replace(output={"instances": instances[instances.scores >= self.settings.threshold]})

    def _linked(self, stream: Iterable[DetectedFrame]) -> Iterable[DetectedFrame]:
        if self._linker is None:
            return stream
        return link_stream(stream, OnlineLinker(self._linker, self.settings.link))

    def _records(self, path: str, stream: Iterable[DetectedFrame], begin: int) -> Iterator[FrameRecord]:
        """Of frames whose numbers count from frame `begin` of the video."""
        times = frame_times(path)
        for frame in stream:
            index = begin + frame.index
            time_of_frame = None if times is None or index >= len(times) else float(times[index])
            yield FrameRecord.of(path, index, time_of_frame, frame.output["instances"], self.settings.class_names)


class _Frames:
    """Frames of a reader by number, one at a time."""

    def __init__(self, reader: VideoReader, indices: range) -> None:
        self._reader, self._indices = reader, indices
        self.is_damaged = False

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in self._indices:
            try:
                images = self._reader.read([index])
            except VideoError:
                self.is_damaged = True
                raise
            yield images[index]


def frame_times(path: str) -> np.ndarray | None:
    """(N,) float64 seconds from the first frame to each, of a file whose packets tell them; else None.

    All packets are read, none is decoded.
    """
    if os.path.isdir(path):
        return None
    try:
        table = read_table(path)
    except VideoError:  # damaged: what can be decoded of it is detected in all the same
        return None
    if table is None or not len(table.times):
        return None
    container, stream = open_video(path)
    with container:
        unit = stream.time_base
    return None if unit is None else (table.times - table.times[0]) * float(unit)


def carries_state(predictor: VideoPredictor) -> bool:
    """Whether detections depend on something that is carried from frame to frame, found out by a few gray frames."""
    stream = predictor.open("probe")
    frame = np.full((64, 96, 3), 128, np.uint8)
    for _ in range(predictor.lookahead + 2):
        stream.step(frame)
    return bool(stream.memory.cached_context().carry)


def _sentence(text: str) -> str:
    """In one line."""
    return " ".join(text.split())
