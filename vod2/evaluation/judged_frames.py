"""Pictures of evaluated frames: what was found, what is false and what is missed."""

from collections.abc import Sequence

import cv2
import numpy as np

from vod2.d2 import DatasetCatalog
from vod2.data.clips import read_frames
from vod2.data.datasets.video_index import as_video_dicts
from vod2.errors import UserError
from vod2.evaluation.failures import Judged
from vod2.evaluation.runs import Run
from vod2.visualization import class_color, class_name, draw_box

WIDTH = 560
"""Pixels of a picture."""


def draw_judged(image: np.ndarray, judged: Judged, frame: int, run: Run) -> np.ndarray:
    """The detections and the missed objects of a frame: `image` (H, W, 3) uint8 BGR -> (h, WIDTH, 3)."""
    scale = WIDTH / image.shape[1]
    # Resized before drawing, so that lines and letters are of one size in all panels.
    canvas = cv2.resize(image, (WIDTH, max(1, round(image.shape[0] * scale))), interpolation=cv2.INTER_AREA)
    names, truth, detections = run.data.class_names, run.data.truth, judged.detections
    for row in np.flatnonzero((truth.image == frame) & ~judged.found & ~truth.ignore):
        label = int(truth.labels[row])
        text = f"{class_name(label, names)} missed"
        draw_box(canvas, scale * truth.boxes[row], text, class_color(label), dashed=True)
    rows = np.flatnonzero(detections.image == frame)
    for row in rows[np.argsort(detections.scores[rows], kind="stable")]:  # the surest lies on top
        label = int(detections.labels[row])
        score = f"{detections.scores[row]:.2f}".lstrip("0")
        text = f"{class_name(label, names)} {score}"
        if judged.matches[row] < 0:
            text += " false"
        draw_box(canvas, scale * detections.boxes[row], text, class_color(label))
    return canvas


def read_images(dataset: str, run: Run, frames: Sequence[int]) -> list[np.ndarray]:
    """The images (H, W, 3) uint8 BGR of some frames of the evaluation.

    Raises:
        UserError: the dataset is not registered or has not these frames, or an image cannot be read.
    """
    if dataset not in DatasetCatalog.list():
        raise UserError(
            f"dataset {dataset!r}, whose images are to be drawn, is not registered: name another one with --dataset, "
            f"one of {', '.join(DatasetCatalog.list())}"
        )
    records = {str(record["image_id"]): record for record in as_video_dicts(DatasetCatalog.get(dataset))}
    images = []
    for frame in frames:
        # As text, which an evaluation may have made of ids that are numbers in the dataset.
        name = str(run.data.image_ids[frame])
        if name not in records:
            raise UserError(f"dataset {dataset!r} has no frame {name!r}, which was evaluated: is it another version?")
        number = records[name]["frame_index"]
        images.append(read_frames(records[name], [number])[number])
    return images
