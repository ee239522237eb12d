"""A report: one page with a video, the boxes in it and the score of every object over time."""

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from vod2.atomic import replacing
from vod2.d2 import Instances
from vod2.data.reader import VideoReader
from vod2.visualization.draw import class_color, class_name
from vod2.visualization.report_tracks import Curve, Track, build_tracks
from vod2.visualization.report_video import EmbeddedVideo, embed_video

# The slider of the page starts there: detections below are noise, and make up most of the page.
LEAST_SCORE = 0.05
_TEMPLATE = Path(__file__).with_name("report_template.html")


def write_report(
    path: str | os.PathLike,
    video: str | os.PathLike | Iterable[np.ndarray],
    detections: Mapping[int, Instances],
    *,
    fps: Fraction | float | None = None,
    class_names: Sequence[str] = (),
    baseline: Mapping[int, Instances] | None = None,
    threshold: float = 0.5,
    gaps: Sequence[int] = (),
    title: str | None = None,
    note: str = "",
) -> None:
    """Write a self-contained HTML page: it loads nothing from anywhere, and opens from a disk or a mail.

    The page plays the video with boxes over it. Below, each object has a line with its score over time, and with that
    of the baseline; a click there jumps to the frame. Objects are told apart as `build_tracks` says.

    Args:
        path: the page to write, such as "out.html".
        video: a file or a folder as of `VideoReader`, or (H, W, 3) uint8 BGR frames of one size. It is encoded anew,
            so that every browser plays it and frames have exact times.
        detections: by frame number from 0, in pixels of the frames, on the CPU: pred_boxes, scores, pred_classes, and
            track_ids if they are known. Those below a score of `LEAST_SCORE` are left out.
        fps: frames per second; needed unless `video` is a path.
        class_names: names by label.
        baseline: detections to compare with, such as those of a detector that looks at single frames.
        threshold: score that the page starts with, in [0, 1].
        gaps: numbers of frames before which the video lacks some; they are marked.
        title: heading, the name of the video if None.
        note: a sentence below the heading.

    Raises:
        VideoError: the video cannot be read or has no frame.
        ValueError: detections of a frame that the video does not have; frames without fps.

    Example:
        >>> import tempfile, torch
        >>> from vod2.d2 import Boxes
        >>> found = Instances((32, 32), pred_boxes=Boxes(torch.tensor([[4.0, 4.0, 20.0, 20.0]])))
        >>> found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        >>> page = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(page, [np.zeros((32, 32, 3), np.uint8)] * 2, {0: found}, fps=25, class_names=["fox"])
        >>> "fox" in page.read_text(encoding="utf-8")
        True
    """
    if isinstance(video, str | os.PathLike):
        reader = VideoReader(video)
        fps = reader.fps if fps is None else fps
        title, video = Path(video).name if title is None else title, reader
    if fps is None or fps <= 0:
        raise ValueError(f"fps={fps}: a report of frames needs a positive number of frames per second")
    embedded = embed_video(video, fps)
    for name, frames in (("detections", detections), ("baseline", baseline or {})):
        outside = [frame for frame in frames if not 0 <= frame < embedded.count]
        if outside:
            raise ValueError(f"{name} of frame {outside[0]}: the video has frames 0 to {embedded.count - 1}")
    data = _page_data(embedded, build_tracks(detections, baseline, LEAST_SCORE), class_names)
    data |= {"fps": float(fps), "threshold": threshold, "gaps": list(gaps), "compared": baseline is not None}
    parts = {
        "title": html.escape(title or "Detections"),
        "note": html.escape(note),
        "video": base64.b64encode(embedded.data).decode("ascii"),
        # Inside a script element the browser looks for "</script" and "<!--", in strings too.
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    # In one pass, since a part may hold text that looks like the place of another.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _TEMPLATE.read_text(encoding="utf-8"))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page_data(video: EmbeddedVideo, tracks: Sequence[Track], class_names: Sequence[str]) -> dict:
    labels = sorted({track.label for track in tracks})
    return {
        "type": video.type,
        "width": video.size[0],
        "height": video.size[1],
        "frames": video.count,
        "leastScore": LEAST_SCORE,
        "classes": {label: {"name": class_name(label, class_names), "color": _css(label)} for label in labels},
        "tracks": [
            {"label": track.label, "name": track.name, "found": _plain(track.found), "baseline": _plain(track.baseline)}
            for track in tracks
        ],
    }


def _plain(curve: Curve) -> dict:
    """Three digits of a score and a tenth of a pixel are more than a screen shows."""
    boxes = [[round(side, 1) for side in box] for box in curve.boxes]
    return {"frames": curve.frames, "boxes": boxes, "scores": [round(score, 3) for score in curve.scores]}


def _css(label: int) -> str:
    blue, green, red = class_color(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
