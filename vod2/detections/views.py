"""What was found in a frame, in the forms that people go on with.

n: detections of the frame.
"""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from vod2.d2 import Instances
from vod2.detections.foreign import as_instances
from vod2.errors import UserError
from vod2.evaluation.detection_files import as_record, detections_of
from vod2.image_files import write_image
from vod2.visualization import class_name, draw_instances


class ResultViews(ABC):
    """Drawings, arrays and tables of one frame's detections.

    Attributes:
        class_names: names by label; a label without one is called "class 3".
    """

    class_names: Sequence[str] = ()

    @property
    @abstractmethod
    def instances(self) -> Instances:
        """pred_boxes (xyxy pixels of the image), scores, pred_classes, and track_ids if they are known."""

    @abstractmethod
    def _number_and_image(self) -> tuple[int, np.ndarray | None]:
        """The frame's number, from 0, and its image, (H, W, 3) uint8 BGR, where there is one."""

    def plot(self, threshold: float = 0.5) -> np.ndarray:
        """The image with boxes, names and scores drawn into it: (H, W, 3) uint8 BGR, a new array.

        Args:
            threshold: detections of a lower score are not drawn.

        Raises:
            UserError: there is no image.
        """
        index, image = self._number_and_image()
        if image is None:
            raise UserError(f"frame {index} has no image to draw into: use vod2.visualization.draw_instances")
        return draw_instances(image, self.instances.to("cpu"), self.class_names, threshold)

    def save(self, path: str | os.PathLike, threshold: float = 0.5) -> None:
        """Write what `plot` draws; the suffix names the format.

        Raises:
            UserError: there is no image.
            ValueError: OpenCV does not know the format.
        """
        write_image(path, self.plot(threshold))

    def to_dict(self) -> dict:
        """{"index", "detections": [{"box" (xyxy), "class", "label", "score"}]}; also "track", where it is known."""
        index, _ = self._number_and_image()
        record = as_record(index, 0.0, detections_of(self.instances.to("cpu")), self.class_names)
        del record["time"]  # which a frame by itself does not know
        return record

    def to_numpy(self) -> dict[str, np.ndarray]:
        """{"boxes" (n, 4) xyxy, "scores" (n,), "labels" (n,) int64}, and "track_ids" (n,) where they are known."""
        instances = self.instances.to("cpu")
        columns = {
            "boxes": instances.pred_boxes.tensor,
            "scores": instances.scores,
            "labels": instances.pred_classes,
        }
        if instances.has("track_ids"):
            columns["track_ids"] = instances.track_ids
        # Copies: who changes an array does not change the detections.
        return {name: column.detach().numpy().copy() for name, column in columns.items()}

    def to_dataframe(self) -> Any:
        """A table of pandas: frame, x1, y1, x2, y2, score, label, class, and track where it is known.

        Raises:
            UserError: pandas is not installed.
        """
        pandas = _library("pandas", "to_dataframe")
        arrays = self.to_numpy()
        index, _ = self._number_and_image()
        columns: dict[str, Any] = {"frame": np.full(len(arrays["scores"]), index)}
        columns |= {name: arrays["boxes"][:, column] for column, name in enumerate(("x1", "y1", "x2", "y2"))}
        columns |= {"score": arrays["scores"], "label": arrays["labels"]}
        columns["class"] = [class_name(label, self.class_names) for label in arrays["labels"].tolist()]
        if "track_ids" in arrays:
            columns["track"] = arrays["track_ids"]
        return pandas.DataFrame(columns)

    def to_supervision(self) -> Any:
        """`supervision.Detections` with data["class_name"]; `as_instances` goes the other way.

        Raises:
            UserError: supervision is not installed.
        """
        supervision = _library("supervision", "to_supervision")
        arrays = self.to_numpy()
        names = np.array([class_name(label, self.class_names) for label in arrays["labels"].tolist()], dtype=str)
        return supervision.Detections(
            xyxy=arrays["boxes"],
            confidence=arrays["scores"],
            class_id=arrays["labels"],
            tracker_id=arrays.get("track_ids"),
            data={"class_name": names},
        )


class Result(ResultViews):
    """The views of detections that come from elsewhere, for example from `vod2.link`.

    Args:
        detections: see `as_instances`.
        index: number of the frame, from 0.
        image: (H, W, 3) uint8 BGR, to draw into.
        class_names: names by label.

    Raises:
        UserError: they are no detections.

    Example:
        >>> Result(([[1, 2, 3, 4]], [0.5], [1]), index=7, class_names=["cat", "dog"]).to_dict()
        {'index': 7, 'detections': [{'box': [1.0, 2.0, 3.0, 4.0], 'class': 'dog', 'label': 1, 'score': 0.5}]}
    """

    def __init__(
        self, detections: Any, index: int = 0, image: np.ndarray | None = None, class_names: Sequence[str] = ()
    ) -> None:
        size = None if image is None else (image.shape[0], image.shape[1])
        self._instances = as_instances(detections, size, f"frame {index}")
        self.index, self.image, self.class_names = index, image, class_names

    @property
    def instances(self) -> Instances:
        """Detectron2's form of them, on the CPU."""
        return self._instances

    def _number_and_image(self) -> tuple[int, np.ndarray | None]:
        return self.index, self.image


def _library(name: str, asking: str) -> ModuleType:
    """A library that vod2 does not need."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{asking} needs {name}, which is not installed: pip install {name}") from error
