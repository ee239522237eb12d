"""A report: one page with a video, the boxes in it and the score of every object over time."""

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from vod2.atomic import replacing
from vod2.d2 import Instances
from vod2.video import BrowserVideo, EmbeddedVideo, VideoReader
from vod2.visualization.draw import class_color, class_name
from vod2.visualization.report_tracks import Curve, Track, build_tracks

# The slider of the page starts there: detections below are noise, and make up most of the page.
LEAST_SCORE = 0.05
_TEMPLATE = Path(__file__).with_name("report_template.html")


class ReportWriter:
    """A context manager that takes frames with their detections and writes a self-contained HTML page.

    The page loads nothing from anywhere, and opens from a disk or a mail. It plays the video with boxes over it. Below,
    each object has a line with its score over time, and with that of a baseline, such as a detector that looks at
    single frames; a click there jumps to the frame. Objects are told apart as `build_tracks` says.

    The page is written when the block ends, also by Ctrl-C, with what there is; no other error leaves one. Video and
    detections are held in memory until then.

    Attributes:
        note: a sentence below the heading, which may be set until the block ends.

    Example:
        >>> import tempfile, torch
        >>> from vod2.d2 import Boxes
        >>> instances = Instances((32, 32), pred_boxes=Boxes(torch.tensor([[4.0, 4.0, 20.0, 20.0]])))
        >>> instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        >>> page = Path(tempfile.mkdtemp()) / "report.html"
        >>> with ReportWriter(page, fps=25, class_names=["fox"]) as report:
        ...     report.write(np.zeros((32, 32, 3), np.uint8), instances)
        >>> "fox" in page.read_text(encoding="utf-8")
        True
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: Fraction | float,
        class_names: Sequence[str] = (),
        threshold: float = 0.5,
        title: str = "Detections",
    ) -> None:
        """
        Args:
            path: the page to write, such as "out.html".
            fps: frames per second, above 0; of a variable rate, the mean.
            class_names: names by label.
            threshold: score that the page starts with, in [0, 1].
            title: heading of the page.

        Raises:
            ValueError: fps is not positive.
        """
        if fps <= 0:
            raise ValueError(f"fps={fps}: expected a positive number of frames per second")
        self.path, self.fps, self.note = Path(path), fps, ""
        self._class_names, self._threshold, self._title = class_names, threshold, title
        self._detections: dict[int, Instances] = {}
        self._baseline: dict[int, Instances] = {}
        self._compared = False
        self._gaps: list[int] = []

    def __enter__(self) -> "ReportWriter":
        self._video = BrowserVideo(self.fps)
        return self

    def write(
        self,
        frame: np.ndarray,
        detections: Instances | None,
        baseline: Instances | None = None,
        after_gap: bool = False,
        time: Fraction | float | None = None,
    ) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 BGR, all of one size. Every browser plays what it is encoded as.
            detections, baseline: on the CPU, in pixels of the frame: pred_boxes, scores, pred_classes, and track_ids if
                they are known. Those below a score of `LEAST_SCORE` are left out.
            after_gap: the video lacks some frames before this one, which is marked.
            time: seconds from the start of the video, as of `VideoReader.time`, at which the page shows the frame with
                its boxes (at the mean rate in WebM, which stands in for H.264); None is 1 / fps after the frame before.
                Give it for all frames or for none.
        """
        for frames, instances in ((self._detections, detections), (self._baseline, baseline)):
            if instances is not None:
                frames[self._video.count] = instances[instances.scores >= LEAST_SCORE]
        self._compared |= baseline is not None
        if after_gap:
            self._gaps.append(self._video.count)
        if not self._video.count:
            self._start = float(time or 0)
        self._video.write(frame, time)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        # After Ctrl-C the page shows what there is; after an error it would look complete without being so.
        if kind is None or (interrupted and self._video.count):
            self._write_page()

    def _write_page(self) -> None:
        video = self._video.finish()
        data = _page_data(video, build_tracks(self._detections, self._baseline), self._class_names)
        data["start"] = round(self._start, 4)
        data |= {"fps": float(self.fps), "threshold": self._threshold, "gaps": self._gaps, "compared": self._compared}
        parts = {
            "title": html.escape(self._title),
            "note": html.escape(self.note),
            "video": base64.b64encode(video.data).decode("ascii"),
            # Inside a script element the browser looks for "</script" and "<!--", in strings too.
            "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        }
        # In one pass, since a part may hold text that looks like the place of another.
        page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _TEMPLATE.read_text(encoding="utf-8"))
        with replacing(self.path) as temporary:
            temporary.write_text(page, encoding="utf-8")


def write_report(
    path: str | os.PathLike,
    video: str | os.PathLike | Iterable[np.ndarray],
    detections: Mapping[int, Instances],
    *,
    fps: Fraction | float | None = None,
    class_names: Sequence[str] = (),
    baseline: Mapping[int, Instances] | None = None,
    threshold: float = 0.5,
    title: str | None = None,
) -> None:
    """Write the page of `ReportWriter` for a video whose detections are known.

    Args:
        path, class_names, threshold: as of `ReportWriter`.
        video: a file or a folder as of `VideoReader`, which marks its gaps, or frames as of `ReportWriter.write`.
        detections, baseline: as of `ReportWriter.write`, by number of the frame that was read, from 0.
        fps: frames per second; needed unless `video` is a path, whose frames otherwise keep their times.
        title: heading, the name of the video if None.

    Raises:
        VideoError: the video cannot be read or has no frame.
        ValueError: detections of a frame that the video does not have; frames without fps.
    """
    reader: VideoReader | None = None
    given_fps = fps
    if isinstance(video, str | os.PathLike):
        images: Iterable[np.ndarray] = (reader := VideoReader(video))
    else:
        images = video
    if reader is not None:
        fps, title = fps or reader.fps, title or reader.path.name
    if fps is None:
        raise ValueError("fps=None: a report of frames needs the number of frames per second")
    with ReportWriter(path, fps, class_names, threshold, title or "Detections") as report:
        count = 0
        for count, frame in enumerate(images, 1):
            frame_baseline = None if baseline is None else baseline.get(count - 1)
            # The reader notes gaps as it comes to them, so only the latest can be right before this frame.
            after_gap = reader is not None and any(gap.frame == count - 1 for gap in reader.gaps[-1:])
            time = None if reader is None or given_fps is not None else reader.time
            report.write(frame, detections.get(count - 1), frame_baseline, after_gap, time)
        for name, frames in (("detections", detections), ("baseline", baseline or {})):
            outside = [frame for frame in frames if not 0 <= frame < count]
            # That a video has no frame at all is what leaving the block reports.
            if count and outside:
                raise ValueError(f"{name} of frame {outside[0]}: the video has frames 0 to {count - 1}")
        if reader is not None and reader.status is not None:
            report.note = reader.status.reason


def _page_data(video: EmbeddedVideo, tracks: Sequence[Track], class_names: Sequence[str]) -> dict:
    classes = {}
    for label in sorted({track.label for track in tracks}):
        classes[label] = {"name": class_name(label, class_names), "color": _css(label)}
    curves = []
    for track in tracks:
        curves.append(
            {
                "label": track.label,
                "name": track.name,
                "found": _curve_data(track.found),
                "baseline": _curve_data(track.baseline),
            }
        )
    return {
        "type": video.type,
        "width": video.size[0],
        "height": video.size[1],
        "frames": video.count,
        "times": _rounded_times(video.times),
        "leastScore": LEAST_SCORE,
        "classes": classes,
        "tracks": curves,
    }


def _rounded_times(times: list[float]) -> list[float]:
    """A tenth of a millisecond: frames are at least one apart."""
    return [round(time, 4) for time in times]


def _curve_data(curve: Curve) -> dict:
    """Three digits of a score and a tenth of a pixel are more than a screen shows."""
    boxes = []
    for box in curve.boxes:
        # Rounded: the numbers of all boxes make up most of the page beside the video.
        boxes.append([round(side, 1) for side in box])
    scores = [round(score, 3) for score in curve.scores]
    return {"frames": curve.frames, "boxes": boxes, "scores": scores}


def _css(label: int) -> str:
    blue, green, red = class_color(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
