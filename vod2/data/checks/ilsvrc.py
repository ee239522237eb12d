"""ImageNet VID's and DET's layouts, file by file, for the check of a dataset.

Both read lists and annotations with the parsers of their loaders, and collect what these find.
"""

import os
from collections.abc import Collection, Generator, Hashable, Iterator, Sequence
from pathlib import Path

from vod2.atomic import replacing
from vod2.data.checks.findings import (
    ERROR,
    WARNING,
    CheckedFrame,
    CheckedObject,
    CheckedVideo,
    CheckFormat,
    Finding,
    finding_of,
)
from vod2.data.datasets.det_selection import derive_images
from vod2.data.datasets.faults import Fault
from vod2.data.datasets.files import files_in, is_foreign
from vod2.data.datasets.frame_list import parse_frame_list
from vod2.data.datasets.ilsvrc import category_ids, parse_xml
from vod2.data.datasets.imagenet_det import find_det_list, parse_det_list
from vod2.data.datasets.imagenet_vid import (
    FrameRef,
    chosen_frames,
    default_classes,
    find_list,
    read_sidecar,
)
from vod2.errors import UserError

_SPLITS = ("train", "val")


class ImageNetVid(CheckFormat):
    """<path>/Data/VID/<split>/.../<video>/000000.JPEG and the same below Annotations; arguments as of its loader.

    Args:
        path: folder with Data, Annotations and perhaps ImageSets.
        split: such as "train"; None for train and val, as far as they are there.
        class_names, list_file, every_frame: see `load_imagenet_vid`.
    """

    name = "imagenet_vid"
    options = frozenset({"split", "class_names", "list_file", "every_frame"})

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        class_names: Sequence[str] | None = None,
        list_file: str | os.PathLike | None = None,
        every_frame: bool = False,
    ) -> None:
        self._root = Path(path)
        wanted = _SPLITS if split is None else (split,)
        self._splits = [name for name in wanted if (self._data / name).is_dir()]
        if not self._splits:
            raise UserError(f"{self._data}: expected a folder {' or '.join(wanted)} in it: see datasets/README.md")
        if list_file is not None and len(self._splits) > 1:
            raise UserError(f"the list {list_file} is of one split: give --split {'|'.join(self._splits)}")
        self._list_file, self._every_frame = list_file, every_frame
        names = default_classes(path) if class_names is None else class_names
        self.classes: list[str] = list(names)
        self._entries: list[FrameRef] = []

    @property
    def _data(self) -> Path:
        return self._root / "Data" / "VID"

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "Data", "VID").is_dir()

    def videos(self) -> Iterator[CheckedVideo]:
        self._entries = []
        for split in self._splits:
            list_file = None if self._every_frame else self._list_file or find_list(self._root, split)
            if list_file is None:
                yield from self._of_folders(split)
            else:
                yield from self._of_list(Path(list_file), split)

    def _of_folders(self, split: str) -> Iterator[CheckedVideo]:
        for folder, subfolders, files in os.walk(self._data / split, followlinks=True):
            # os.walk goes on in the order of this list; links are followed because data sets are often made of them.
            subfolders[:] = sorted(name for name in subfolders if not is_foreign(name))
            if any(file.endswith(".JPEG") and not is_foreign(file) for file in files):
                yield self._video(Path(folder).relative_to(self._data).as_posix(), split)

    def _of_list(self, path: Path, split: str) -> Iterator[CheckedVideo]:
        # A video without a name carries what is wrong with the list itself.
        report = CheckedVideo("")
        entries = parse_frame_list(path, split, lambda fault: report.findings.append(finding_of(fault)))
        first: dict[tuple[str, int | None], int] = {}
        videos: dict[str, dict[int | None, int]] = {}  # frame (None for all) -> line
        lengths: dict[str, int | None] = {}
        for entry in entries:
            line = first.setdefault((entry.video, entry.index), entry.line)
            if line != entry.line:
                expected = f"each entry once; it is line {line} too"
                report.findings.append(
                    Finding(ERROR, "duplicate_line", str(path), repr(entry.text), expected, entry.line)
                )
                continue
            lengths.setdefault(entry.video, entry.length)
            videos.setdefault(entry.video, {})[entry.index] = entry.line
        yield report
        for video, lines in videos.items():
            listed = {index: line for index, line in lines.items() if index is not None}
            yield self._video(video, split, path, None if None in lines else listed, lengths[video])

    def _video(
        self,
        name: str,
        split: str,
        list_path: Path | None = None,
        listed: dict[int, int] | None = None,
        length: int | None = None,
    ) -> CheckedVideo:
        """One video.

        Args:
            name: of the video.
            split: its split.
            list_path: the list that names it, None for none.
            listed: {frame: line of the list}; None for all frames that a list would name.
            length: what the list says.
        """
        folder = self._data / name
        video = CheckedVideo(name)
        if not os.path.isdir(folder):  # also false for a name that no folder can have
            # The finding is of the first line that names the video.
            line = min(listed.values()) if listed else None
            video.findings.append(
                Finding(ERROR, "missing_video", str(folder), f"{list_path} lists it", "a folder of frames", line)
            )
            return video
        present = self._count_frames(folder, video, length)
        if listed is None:
            # What the loader takes: of a training video 15 frames, but all that a list of videos names.
            chosen = set(chosen_frames(present, self._every_frame or list_path is not None or split != "train"))
        else:
            chosen = set(listed)
        # The other frames may be supports: they need images, but no annotations.
        for index in sorted(chosen.union(range(present))):
            image = str(folder / f"{index:06d}.JPEG")
            entry = None
            if index in chosen:
                # With the length of the folder, which is what a repaired list has to say.
                entry = FrameRef(name, index, present)
                self._entries.append(entry)
            frame = CheckedFrame(index, image, entry=entry)
            if index in chosen:
                file = self._root / "Annotations" / "VID" / name / f"{index:06d}.xml"
                _annotate(frame, file, video, self.classes)
            video.frames.append(frame)
        try:
            read_sidecar(self._root, name)
        except Fault as fault:
            video.findings.append(finding_of(fault))
        return video

    def _count_frames(self, folder: Path, video: CheckedVideo, length: int | None) -> int:
        """Frames of a folder up to its last one; what its file names and the list say otherwise are findings."""
        names = sorted(file.name for file in files_in(folder, ".JPEG"))
        numbers = [int(name[:6]) for name in names if len(name) == 11 and name[:6].isdecimal()]
        misnamed = [name for name in names if not (len(name) == 11 and name[:6].isdecimal())]
        present = max(numbers, default=-1) + 1
        if misnamed:
            # Without a length in the list the loader counts the files and stops at such a name; else it never looks.
            severity = ERROR if length is None else WARNING
            value = f"{len(misnamed)} such names"
            finding = Finding(severity, "video_length", str(folder / misnamed[0]), value, "000000.JPEG ...")
            video.findings.append(finding)
        if length is not None and length != present:
            # Listed frames that are not there stop a training; frames beyond the list are never read.
            severity = ERROR if length > present else WARNING
            video.findings.append(
                Finding(severity, "video_length", str(folder), f"{present} frames", f"{length} frames as listed")
            )
        return present

    def require_list(self) -> None:
        if len(self._splits) > 1:
            raise UserError(f"a list is of one split: give --split {'|'.join(self._splits)}")

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """The frames as `video 1 frame length`, with the lengths that the folders have."""
        self.require_list()
        good = list(dict.fromkeys(entry for entry in self._entries if entry not in bad))
        lines = [f"{ref.video} 1 {ref.index} {ref.length}" for ref in good]
        if len(good) == 1 and good[0].index == 0:
            lines = [f"{good[0].video}/000000 1"]  # in the other form, this one line would mean the whole video
        return write_lines(path, lines, self._root)


def _annotate(
    frame: CheckedFrame, file: Path, video: CheckedVideo, classes: Sequence[str], only_known: bool = False
) -> None:
    """Read the annotation of a frame into it; errors become findings of the video.

    Args:
        classes: readable names; VID's may also go by their WordNet ids.
        only_known: leave out objects of other classes.
    """
    frame.annotation = str(file)
    try:
        height, width, objects = parse_xml(file)
    except Fault as fault:
        video.findings.append(finding_of(fault, frame))
        return
    frame.size = (height, width)
    ids = category_ids(classes)
    frame.objects = [
        CheckedObject(classes[ids[thing.name]] if thing.name in ids else thing.name, thing.box, thing.track)
        for thing in objects
        if thing.name in ids or not only_known
    ]


class ImageNetDet(CheckFormat):
    """<path>/Data/DET/train/.../<image>.JPEG and the same below Annotations; objects of other classes are left out.

    Args:
        path: folder with Data, Annotations and perhaps ImageSets.
        list_file: see `load_imagenet_det`.
    """

    name = "imagenet_det"
    options = frozenset({"list_file"})

    def __init__(self, path: str | os.PathLike, list_file: str | os.PathLike | None = None) -> None:
        self._root = Path(path)
        if not self.recognizes(path):
            raise UserError(f"{self._root / 'Data' / 'DET'}: no such folder: see datasets/README.md")
        self.classes: Sequence[str] = default_classes(path)
        self._list = list_file or find_det_list(path)
        self._entries: list[str] = []

    @classmethod
    def recognizes(cls, path: str | os.PathLike) -> bool:
        return Path(path, "Data", "DET").is_dir()

    def videos(self) -> Iterator[CheckedVideo]:
        if self._list is None:
            self._entries = derive_images(self._root, self.classes)
        else:
            self._entries = yield from self._of_list(Path(self._list))
        # A path that is listed twice is one image to check.
        for path in dict.fromkeys(self._entries):
            frame = CheckedFrame(0, str(self._root / "Data" / "DET" / f"{path}.JPEG"), entry=path)
            video = CheckedVideo(f"DET/{path}", [frame])
            # DET annotates 200 classes, of which the loader, too, leaves out those that are not asked for.
            _annotate(frame, self._root / "Annotations" / "DET" / f"{path}.xml", video, self.classes, only_known=True)
            yield video

    def _of_list(self, path: Path) -> Generator[CheckedVideo, None, list[str]]:
        """Yields the findings of the list, returns the paths of its good lines.

        A path that comes twice is worth a look, but the published list has 402 of them.
        """
        first: dict[str, int] = {}
        findings, entries = [], []
        for line, image in parse_det_list(path, lambda fault: findings.append(finding_of(fault))):
            if first.setdefault(image, line) != line:
                expected = f"each image once; it is line {first[image]} too"
                findings.append(Finding(WARNING, "duplicate_line", str(path), repr(image), expected, line))
            entries.append(image)
        yield CheckedVideo("", findings=findings)
        return entries

    def write_list(self, path: str | os.PathLike, bad: Collection[Hashable]) -> int:
        """The images as `path 1`."""
        return write_lines(path, [f"{entry} 1" for entry in self._entries if entry not in bad], self._root)


def write_lines(path: str | os.PathLike, lines: Sequence[str], source: object) -> int:
    """Write a list atomically; returns its length.

    Raises:
        UserError: there are no lines.
    """
    if not lines:
        raise UserError(f"{path} is not written: no entry of {source} is without an error")
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)
