"""YOLO's labels, for the check of a dataset, read with the parser of their loader."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vod2.data.checks.findings import ERROR, CheckedFrame, CheckedObject, CheckedVideo, Finding, finding_of
from vod2.data.checks.labels import LabelFormat, nth, without_repeats
from vod2.data.datasets.common import video_file
from vod2.data.datasets.files import files_in, folders_in, image_files_in
from vod2.data.datasets.images import image_size
from vod2.data.datasets.yolo import find_label_files, parse_labels, read_class_names
from vod2.errors import UserError
from vod2.video import VideoReader


class YoloVideo(LabelFormat):
    """<path>/images/<split>/<video>/<frame>.jpg, <path>/labels/<split>/<video>/<frame>.txt, or side by side.

    Args:
        path: folder of both.
        class_names: the names, or a file with them; None for <path>/data.yaml, and without one any class is good.
        split: a folder below images and labels.
        video_root, video_suffix, first_frame, list_file: see `load_yolo_video`.
    """

    name = "yolo"
    options = frozenset({"split", "class_names", "video_root", "video_suffix", "first_frame", "list_file"})

    def __init__(
        self,
        path: str | os.PathLike,
        class_names: Sequence[str] | str | os.PathLike | None = None,
        split: str | None = None,
        video_root: str | os.PathLike | None = None,
        video_suffix: str = ".mp4",
        first_frame: int = 0,
        list_file: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(path, list_file)
        self._video_root, self._suffix, self._first = video_root, video_suffix, first_frame
        if class_names is None and (self._root / "data.yaml").is_file():
            class_names = self._root / "data.yaml"
        if isinstance(class_names, str | os.PathLike):
            class_names = read_class_names(class_names)
        self.classes = None if class_names is None else list(class_names)
        # The rule of `load_yolo_video`.
        separate = (self._root / "images").is_dir() or (self._root / "labels").is_dir()
        self._images, self._labels = (
            self._root / (part if separate else "") / (split or "") for part in ("images", "labels")
        )
        needed = self._images if video_root is None else self._labels
        if not needed.is_dir():
            raise UserError(f"{needed}: no such folder: see datasets/README.md for how to lay it out")

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "images").is_dir() and Path(path, "labels").is_dir()

    def videos(self) -> Iterator[CheckedVideo]:
        self._ids = []
        if self._video_root is not None:
            for labels in folders_in(self._labels):
                yield self._of_file(labels, self._video_root)
            return
        for folder in folders_in(self._images):
            labels = self._labels / folder.name
            video = CheckedVideo(folder.name)
            stems = set()
            for index, file in enumerate(image_files_in(folder)):
                stems.add(file.stem)
                label = labels / f"{file.stem}.txt"
                frame = CheckedFrame(index, str(file), str(label), entry=f"{video.name}/{index:06d}")
                video.frames.append(frame)
                if label.is_file():
                    self._read(frame, label, _size(file), video)
            # The loader goes by images and would never see these labels.
            for label in sorted(label for label in files_in(labels, ".txt") if label.stem not in stems):
                video.findings.append(Finding(ERROR, "missing_frame", str(label), "labels without an image", "one"))
            yield self._finish(video)

    def _of_file(self, labels: Path, video_root: str | os.PathLike) -> CheckedVideo:
        file = video_file(video_root, labels.name, self._suffix)
        video = CheckedVideo(labels.name)
        try:
            reader = VideoReader(file)
            length, (width, height) = reader.frame_count(), reader.size
            size = (height, width)
        except UserError as error:
            kind = "unreadable_video" if os.path.exists(file) else "missing_video"
            video.findings.append(Finding(ERROR, kind, file, str(error), "a video"))
            return video
        video.file = file
        video.frames = [CheckedFrame(i, file, str(labels), [], size, f"{video.name}/{i:06d}") for i in range(length)]
        files = find_label_files(labels, length, self._first, lambda fault: video.findings.append(finding_of(fault)))
        for index, label in files.items():
            video.frames[index].annotation = str(label)
            self._read(video.frames[index], label, size, video)
        return self._finish(video)

    def _read(self, frame: CheckedFrame, label: Path, size: tuple[int, int] | None, video: CheckedVideo) -> None:
        things = parse_labels(label, lambda fault: video.findings.append(finding_of(fault, frame)))
        for _, thing in without_repeats(
            # Without its line, with which no two would be the same.
            ((thing.line, thing._replace(line=0)) for thing in things),
            label,
            video,
            frame,
        ):
            name = (self.classes and nth(self.classes, thing.category)) or f"class {thing.category}"
            # Relative boxes have no pixels without a size; the walk reports the image.
            if size is not None:
                frame.objects.append(CheckedObject(name, thing.in_pixels(*size), thing.track))


def _size(image: Path) -> tuple[int, int] | None:
    """(height, width) of an image; None if it cannot be read, which the walk finds."""
    try:
        return image_size(image)
    except UserError:
        return None
