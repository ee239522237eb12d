"""Walking a whole dataset before training does, and collecting everything that is wrong with it.

A format (see `vod2.data.checks.formats`) yields the videos of a dataset as they are written; the walk looks at their
annotations, their tracks and their images. Nothing here stops at the first broken file.
"""

import math
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from vod2.data.checks.findings import (
    ERROR,
    WARNING,
    CheckedFrame,
    CheckedVideo,
    CheckFormat,
    CheckResult,
    Example,
    Finding,
)
from vod2.data.datasets.images import read_image
from vod2.errors import VideoError
from vod2.video import VideoReader

_ROUNDING = 1e-3  # pixels that a box may leave its image by without a word
_TOLERANCE = 1.0  # pixels: edges that count from 1, or include the last pixel
_SHOWN_FRAMES = 12  # frames without a finding that are kept as examples
_SHOWN_BROKEN = 4  # frames kept as examples of each kind of finding


def check_dataset(
    source: CheckFormat, max_images_per_video: int = 0, workers: int = 4, progress: bool | None = None
) -> CheckResult:
    """Walk a dataset.

    Args:
        source: its format.
        max_images_per_video: decode at most so many images of each video, evenly spread; 0 for all. Of the others it
            is only checked that they are there.
        workers: threads that decode images.
        progress: show a bar; None for where stderr is a terminal.

    Example:
        >>> import tempfile
        >>> from vod2.data.checks.formats import ImageNetVid
        >>> from vod2.data.synthetic import SyntheticConfig, write_synthetic
        >>> root = tempfile.mkdtemp()
        >>> write_synthetic(SyntheticConfig(0, 1, 0, frames=2, height=64, width=96, classes=2), root)
        >>> check_dataset(ImageNetVid(root), progress=False).findings
        []
    """
    result = CheckResult()
    kept: Counter[str] = Counter()
    reservoir: list[Example] = []
    rng = np.random.default_rng(0)  # which frames without findings are shown
    # Threads are enough, as decoding releases Python's lock.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for video in tqdm(
            source.videos(), desc="videos", unit="video", disable=None if progress is None else not progress
        ):
            images = _Images(video, max_images_per_video, pool)
            findings = [*video.findings, *images.findings, *_check_annotations(video, source, images.sizes)]
            result.findings += findings
            # A format yields a video without frames to carry the findings of a list.
            result.videos += bool(video.frames)
            result.frames += len(video.frames)
            result.images_read += images.count
            result.objects += sum(len(frame.objects) for frame in video.frames)
            result.examples += _broken_examples(video, findings, kept)
            _sample(reservoir, video, findings, result.videos, rng)
    result.examples += reservoir
    # A loader stops there, too, even where each file is as it should be.
    if not result.frames and not result.count(ERROR):
        result.findings.append(Finding(ERROR, "missing_frame", source.source, "no frames", "at least one"))
    return result


class _Images:
    """The images of a video, decoded: their sizes {frame number: (height, width)}, and what is wrong with them."""

    def __init__(self, video: CheckedVideo, limit: int, pool: ThreadPoolExecutor) -> None:
        self.findings: list[Finding] = []
        self.sizes: dict[int, tuple[int, int]] = {}
        if video.file is not None:
            self._decode(video, video.file, limit)
        else:
            self._read(video, limit, pool)
        self.count = len(self.sizes)
        self._compare(video)

    def _read(self, video: CheckedVideo, limit: int, pool: ThreadPoolExecutor) -> None:
        decoded = set(_evenly_spaced(len(video.frames), limit))
        for position, frame in enumerate(video.frames):
            if position not in decoded and not os.path.isfile(frame.image):
                self.findings.append(_missing_frame(frame))
        frames = [video.frames[position] for position in sorted(decoded)]
        for frame, size_or_reason in zip(frames, pool.map(_image_size, [frame.image for frame in frames]), strict=True):
            if size_or_reason is None:
                self.findings.append(_missing_frame(frame))
            elif isinstance(size_or_reason, str):
                expected = "an image that can be decoded whole"
                self.findings.append(frame.finding(ERROR, "unreadable_image", frame.image, size_or_reason, expected))
            else:
                self.sizes[frame.index] = size_or_reason

    def _decode(self, video: CheckedVideo, file: str, limit: int) -> None:
        """A video file is decoded from its start: frame `index` of the dataset is its frame `index`."""
        if not os.path.exists(file):
            entries = tuple(frame.entry for frame in video.frames if frame.entry is not None)
            self.findings.append(Finding(ERROR, "missing_video", file, "no such file", "a video", entries=entries))
            return
        # A video file has to be decoded up to the last frame of interest, so a limit takes the first frames of it.
        needed = len(video.frames) if not limit else min(limit, len(video.frames))
        frames = {frame.index: frame for frame in video.frames}
        count = 0
        try:
            for image in VideoReader(file):
                if count in frames:
                    self.sizes[count] = image.shape[:2]
                count += 1
                if limit and count >= needed:
                    return
        except VideoError as error:
            # A finding names its file anyway.
            text = str(error).replace(repr(file), "it")
            # A decoder seldom recovers from damage, so the frames after it count as lost.
            entries = tuple(frame.entry for frame in video.frames if frame.index >= count and frame.entry is not None)
            self.findings.append(
                Finding(ERROR, "unreadable_video", file, text, "a video that decodes to its end", None, count, entries)
            )
            return
        for frame in video.frames:
            if frame.index >= count:
                self.findings.append(
                    frame.finding(ERROR, "missing_frame", file, f"{count} frames that can be read", "more frames")
                )

    def _compare(self, video: CheckedVideo) -> None:
        if not self.sizes:
            return
        usual_size, _ = Counter(self.sizes.values()).most_common(1)[0]
        for frame in video.frames:
            size = self.sizes.get(frame.index)
            if size is None:
                continue
            if frame.size is not None and frame.size != size:
                self.findings.append(
                    frame.finding(
                        ERROR, "size_mismatch", frame.image, _pixels(size), f"{_pixels(frame.size)} as annotated"
                    )
                )
            # A stream refuses a frame of another size than its first one.
            if size != usual_size:
                self.findings.append(
                    frame.finding(
                        ERROR, "mixed_sizes", frame.image, _pixels(size), f"{_pixels(usual_size)} as most of its video"
                    )
                )


def _missing_frame(frame: CheckedFrame) -> Finding:
    return frame.finding(ERROR, "missing_frame", frame.image, "no such file", "an image")


def _image_size(path: str) -> tuple[int, int] | str | None:
    """(height, width) of an image that was decoded whole, None if there is none, or why it cannot be read."""
    try:
        # The same function as in training, so that both agree on what is broken.
        return read_image(path, "BGR").shape[:2]
    except FileNotFoundError:
        return None
    except Exception as error:  # decoders raise whatever they like on damaged files
        text = " ".join(str(error).replace(path, "the image").split())
        return "an empty file" if os.path.isfile(path) and os.path.getsize(path) == 0 else text or repr(error)


def _evenly_spaced(count: int, limit: int) -> Iterable[int]:
    if not limit or count <= limit:
        return range(count)
    return ((2 * i + 1) * count // (2 * limit) for i in range(limit))


def _check_annotations(
    video: CheckedVideo, source: CheckFormat, sizes: dict[int, tuple[int, int]]
) -> Iterator[Finding]:
    for frame in video.frames:
        # Boxes were drawn in an image of the annotated size; whether that is right is checked apart (`_compare`).
        size = frame.size or sizes.get(frame.index)
        tracks: set[Hashable] = set()
        for thing in frame.objects:
            if source.classes is not None and thing.name not in source.classes:
                expected = f"one of {', '.join(map(str, source.classes))}"
                yield frame.finding(ERROR, "unknown_class", frame.annotation, repr(thing.name), expected)
            problem = box_problem(thing.box, size, source.boxes_may_leave)
            if problem is not None:
                severity, kind, expected = problem
                yield frame.finding(severity, kind, frame.annotation, _corners(thing.box), expected)
            if thing.track is not None and thing.track in tracks:
                yield frame.finding(
                    ERROR, "duplicate_track", frame.annotation, f"track {thing.track} twice", "one object a track"
                )
            tracks.add(thing.track)
    yield from _check_tracks(video, source.classes)
    # Where annotations could not be read, it is no wonder that there are no objects.
    if video.frames and not video.findings and not any(frame.objects for frame in video.frames):
        file = os.path.dirname(video.frames[0].annotation) or video.name
        yield Finding(WARNING, "empty_video", file, f"{video.name} has no object in {len(video.frames)} frames", "some")


def _check_tracks(video: CheckedVideo, class_names: Collection[Hashable] | None) -> Iterator[Finding]:
    """Objects of unknown classes are found elsewhere."""
    things = [
        (frame, thing)
        for frame in video.frames
        for thing in frame.objects
        if thing.track is not None and (class_names is None or thing.name in class_names)
    ]
    classes: dict[Hashable, Counter] = {}
    for _, thing in things:
        classes.setdefault(thing.track, Counter())[thing.name] += 1
    for frame, thing in things:
        usual_class = classes[thing.track].most_common(1)[0][0]
        if thing.name != usual_class:
            yield frame.finding(
                ERROR,
                "track_class",
                frame.annotation,
                f"track {thing.track} is {thing.name!r}",
                f"{usual_class!r} as in most of the track",
            )


def box_problem(
    box: tuple[float, float, float, float], size: tuple[int, int] | None, may_leave: bool = False
) -> tuple[str, str, str] | None:
    """(severity, kind, what was expected) of a box that is wrong, None for a good one.

    Args:
        box: xyxy in pixels.
        size: (height, width) of the image; None skips what depends on it.
        may_leave: a box that leaves the image is a warning, however far.
    """
    x1, y1, x2, y2 = box
    # First of all, because every comparison with NaN below would be false.
    if not all(map(math.isfinite, box)):
        return ERROR, "box_degenerate", "four numbers"
    if x2 < x1 or y2 < y1:
        return ERROR, "box_inverted", "xmin < xmax and ymin < ymax"
    if x2 == x1 or y2 == y1:
        return ERROR, "box_degenerate", "a box with an area"
    if size is None:
        return None
    beyond = max(-x1, -y1, x2 - size[1], y2 - size[0])
    if beyond <= _ROUNDING:
        return None
    severity = WARNING if may_leave or beyond <= _TOLERANCE else ERROR
    return severity, "box_outside", f"a box in {_pixels(size)} pixels"


def _broken_examples(video: CheckedVideo, findings: Iterable[Finding], kept: Counter[str]) -> Iterator[Example]:
    """Frames of each kind of finding, as many as are still wanted."""
    frames = {frame.index: frame for frame in video.frames}
    shown: set[int] = set()
    for finding in findings:
        if finding.frame not in frames or finding.frame in shown or kept[finding.kind] >= _SHOWN_BROKEN:
            continue
        shown.add(finding.frame)
        frame_findings = [candidate for candidate in findings if candidate.frame == finding.frame]
        # A set: two findings of a kind in one frame are one example of it.
        kept.update({candidate.kind for candidate in frame_findings})
        yield Example(frames[finding.frame], frame_findings, video.file is not None)


def _sample(
    reservoir: list[Example], video: CheckedVideo, findings: Iterable[Finding], number: int, rng: np.random.Generator
) -> None:
    """Keep a frame of video `number` (from 1) so that all videos have an equal chance in the end."""
    bad = {finding.frame for finding in findings}
    good = [frame for frame in video.frames if frame.objects and frame.index not in bad]
    if not good:
        return
    # Reservoir sampling: the n-th video takes a place with probability _SHOWN_FRAMES / n.
    place = len(reservoir) if len(reservoir) < _SHOWN_FRAMES else int(rng.integers(number))
    if place < _SHOWN_FRAMES:
        # While the reservoir is filled, the slice is empty and this appends.
        reservoir[place : place + 1] = [Example(good[len(good) // 2], [], video.file is not None)]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _corners(box: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
