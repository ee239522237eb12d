"""Which layout a folder of annotated videos has, and which parts: what to register for it."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vod2.bounded import load_json_at
from vod2.data.checks import FORMATS
from vod2.data.datasets import (
    load_mot,
    register_bdd,
    register_coco_video,
    register_cvat,
    register_epic,
    register_imagenet_vid,
    register_label_studio,
    register_mot,
    register_uavdt,
    register_visdrone,
    register_yolo_video,
)
from vod2.data.datasets.common import read_text
from vod2.data.datasets.files import folders_in, image_files_in, is_foreign
from vod2.data.datasets.ilsvrc import VID_CLASSES, VID_WNIDS
from vod2.data.datasets.imagenet_vid import default_classes
from vod2.data.datasets.mot import find_sequences
from vod2.data.datasets.uavdt import UAVDT_SEQUENCES
from vod2.errors import UserError

_LOGGER = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
"""Suffixes of video files that are looked for beside annotations, in small or capital letters."""

_ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")


REGISTER: dict[str, Callable[..., None]] = {
    "imagenet_vid": register_imagenet_vid,
    "uavdt": register_uavdt,
    "mot": register_mot,
    "yolo": register_yolo_video,
    "cvat": register_cvat,
    "label_studio": register_label_studio,
    "visdrone": register_visdrone,
    "bdd": register_bdd,
    "epic": register_epic,
    "coco_video": register_coco_video,
}
"""{format: the function that registers a dataset of it, under a name, with the arguments of a part}."""

Parts = dict[str, dict[str, Any]]
"""{name: arguments of the format's function in `REGISTER`}: plain values, so that they can be written to a file."""


class Layout(NamedTuple):
    """What was found in a folder.

    Attributes:
        format: in `vod2.data.checks.FORMATS`.
        parts: by role: "train", perhaps with "val", or "" alone where the data are one.
        left_out: names of parts that are not used, such as a test set beside a validation set.
    """

    format: str
    parts: Parts
    left_out: tuple[str, ...] = ()


def find_layout(
    path: str | os.PathLike,
    format: str | None = None,
    class_names: Sequence[str] | None = None,
    video_root: str | os.PathLike | None = None,
    video_suffix: str | None = None,
    first_frame: int | None = None,
) -> Layout:
    """Find out how annotated videos are laid out (datasets/README.md), and where frames and classes are.

    Args:
        path: a folder, or for a format of one file that file.
        format: in `FORMATS`; None for the first whose layout is there.
        class_names: the classes to keep, by category id; None for those of the annotations.
        video_root, video_suffix: where the video files are; None looks for them where no images are.
        first_frame: what the annotations' numbers of frames count from.

    Raises:
        UserError: nothing is there, no layout fits, or it does not say what is needed; names the option that would.
    """
    path = Path(path).resolve()
    if not path.exists():
        raise UserError(f"--data {path}: there is no such file or folder, expected one with annotated videos")
    finders = _FINDERS if format is None else {format: _FINDERS.get(format)}
    given: dict[str, Any] = {"class_names": class_names}
    if video_root is not None:
        given["video_root"] = str(Path(video_root).resolve())
    given |= {"video_suffix": video_suffix, "first_frame": first_frame}
    options = {key: value for key, value in given.items() if value is not None}
    for name, find in finders.items():
        if find is None:
            raise UserError(f"--format {name}: expected one of {', '.join(_FINDERS)}")
        if format is None and not _is(name, path):
            continue
        if strange := sorted(options.keys() - FORMATS[name].options):
            raise UserError(f"--{strange[0].replace('_', '-')} is no option of the format {name}: leave it out")
        parts = find(path, dict(options))
        if not parts:
            raise UserError(f"--data {path}: there is nothing in it that --format {name} reads: see datasets/README.md")
        return _by_role(name, parts, path)
    raise UserError(f"--data {path}: {_why_unknown(path)}")


def _why_unknown(path: Path) -> str:
    """What keeps a path from being in a known layout, and what to do."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if not is_foreign(file.name)][:1000]
    if packed := next((file for file in files if file.suffix.lower() in (".zip", ".tar", ".tgz", ".rar", ".7z")), None):
        return f"{packed.name} is an archive: unpack it, and give the folder"
    for file in files:
        if file.suffix == ".json" and _glance(file).keys >= {"images", "categories"} and not _has_videos(file):
            return (
                f"{file.name} is COCO's JSON of still images: add videos to it, and video_id and frame_id to each "
                "image, as datasets/README.md says"
            )
    return (
        f"this is in no known layout ({', '.join(_FINDERS)}): give --format, or lay it out as datasets/README.md says"
    )


def _is(name: str, path: Path) -> bool:
    if FORMATS[name].recognizes(path):
        return True
    # A check of these formats takes one file; here a folder with such files is one, too.
    if name == "coco_video":
        return path.is_dir() and bool(_json_files(path))
    if name in _FILES:
        return path.is_dir() and bool(_recognized_files(name, path))
    if name == "yolo":  # also without images, and as Roboflow exports it
        return path.is_dir() and ((path / "labels").is_dir() and (path / "videos").is_dir() or bool(_yolo_roots(path)))
    # A folder of parts, each in a folder of its own.
    return name in _FOLDERS and path.is_dir() and any(map(FORMATS[name].recognizes, folders_in(path)))


def _by_role(format: str, parts: Parts, path: Path) -> Layout:
    """Parts by name -> by role: train and val, of which a test set with annotations may take the place."""
    names: dict[str, str] = {}
    for name in parts:
        role = role_of(name) or ""
        if role in names:
            raise UserError(
                f"--data {path}: both {names[role]!r} and {name!r} look like its {role or 'only'} part: name a folder "
                "or file that holds one of them"
            )
        names[role] = name
    if len(parts) == 1:
        (only,) = parts.values()
        return Layout(format, {"": only})
    if "train" not in names:
        raise UserError(f"--data {path}: its parts are {', '.join(parts)}, expected one that is called train")
    used = {"train": names["train"]}
    if held_out := names.get("val") or names.get("test"):
        used["val"] = held_out
    left_out = tuple(name for name in parts if name not in used.values())
    return Layout(format, {role: parts[name] for role, name in used.items()}, left_out)


def role_of(name: str) -> str | None:
    """What the part of a dataset with this name is for: "train", "val" or "test"; None if the name does not say.

    Example:
        >>> role_of("instances_train2019"), role_of("valid"), role_of("strain")
        ('train', 'val', None)
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in _ROLES]
    # The last one: "test_drive_train" is the training part of a test drive.
    return _ROLES[words[-1]] if words else None


# ---- the formats ----


def _coco_parts(path: Path, options: dict) -> Parts:
    files = _json_files(path) if path.is_dir() else [path]
    parts: Parts = {}
    for file in files:
        arguments = {"json_file": str(file), **options}
        if "video_root" not in options:
            arguments |= _videos_of_json(file, path if path.is_dir() else path.parent)
        _add_part(parts, re.sub(r"\.json(\.gz)?$", "", file.name), arguments, path)
    return parts


def _json_files(folder: Path) -> list[Path]:
    """Annotation files in a folder or in `annotations` below it: those with videos, or all if none can be told."""
    folders = [folder, folder / "annotations"]
    files = [file for place in folders if place.is_dir() for file in sorted(place.iterdir())]
    files = [file for file in files if file.name.endswith((".json", ".json.gz")) and not is_foreign(file.name)]
    return [file for file in files if _has_videos(file)]


def _has_videos(file: Path) -> bool:
    """Whether a JSON file is of videos, and not of results, say, which may lie beside it: by its keys, without parsing.

    A broken one counts, so that its reader says what is wrong with it.
    """
    return _glance(file).keys >= {"videos", "categories"}


class _Glance(NamedTuple):
    """What a JSON file shows without being parsed: which of some keys it has somewhere, and the names of its videos."""

    keys: frozenset[str]
    names: tuple[str, ...]


_KEYS = frozenset({"videos", "images", "categories"})


def _glance(file: Path) -> _Glance:
    """Look at a file; one that cannot be read has all keys. It is read once until it changes."""
    try:
        about = file.stat()
        return _glance_at(file, about.st_mtime_ns, about.st_size)
    except (OSError, UserError):
        return _Glance(_KEYS, ())


@lru_cache(maxsize=64)
def _glance_at(file: Path, changed: int, size: int) -> _Glance:
    text = read_text(file, "annotations")
    keys = frozenset(key for key in _KEYS if re.search(rf'"{key}"\s*:', text))
    for found in re.finditer(r'"videos"\s*:', text):
        try:
            videos = load_json_at(text, found.end())
        except ValueError:
            continue  # the reader says what is wrong with the file
        entries = videos if isinstance(videos, list) else []
        named = [video for video in entries if isinstance(video, dict) and "name" in video]
        if named:  # another list of this name may stand in some other part of the file
            return _Glance(keys, tuple(str(video["name"]) for video in named))
    return _Glance(keys, ())


def _videos_of_json(file: Path, root: Path) -> dict[str, str]:
    """`video_root` and `video_suffix`, where the videos of a JSON file are found as files; {} where they are not."""
    names = _glance(file).names
    if _has_images(names, [file.parent, file.parent / "images", root / "images", root]):
        return {}
    return _video_files(names, [file.parent, file.parent / "videos", root, root / "videos", root.parent / "videos"])


def _has_images(names: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether one of the folders has a folder of images of the first name."""
    return bool(names) and any((folder / names[0]).is_dir() for folder in folders)


def _video_files(names: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """The first of the folders, and the suffix, in which there is a video file of one of the names.

    The suffix is "" where the names have it already.
    """
    known = set(names)
    for folder in folders:
        for file in _videos_in(folder):
            if file.stem in known or file.name in known:
                return {"video_root": str(folder), "video_suffix": "" if file.name in known else file.suffix}
    return {}


def _videos_in(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()]
    return [file for file in files if not is_foreign(file.name)]


def _mot_parts(path: Path, options: dict) -> Parts:
    names = options.pop("class_names", None)
    splits = {"": path} if find_sequences(path) else {folder.name: folder for folder in folders_in(path)}
    parts: Parts = {}
    for split, folder in splits.items():
        sequences = [sequence for sequence in find_sequences(folder) if (sequence / "gt" / "gt.txt").is_file()]
        sequences = _once(sequences)
        if not sequences:  # the ground truth of a test set is often not public
            continue
        arguments = {"root": str(path), "split": split, "sequences": [sequence.name for sequence in sequences]}
        if "video_root" not in options and not any((sequence / "img1").is_dir() for sequence in sequences):
            arguments |= _video_files([sequences[0].name], [folder, path, path / "videos", path.parent / "videos"])
        parts[split] = arguments | options
    if names is None:
        # Labels have to mean the same in all parts, and each may lack objects of some class.
        names = list(dict.fromkeys(name for arguments in parts.values() for name in _classes_that_occur(arguments)))
    for arguments in parts.values():
        arguments["keep_classes"] = names
    return parts


def _once(sequences: Sequence[Path]) -> list[Path]:
    """Of MOT17's copies of a sequence, one for each of three detectors with the same images, the first."""
    kept: dict[str, Path] = {}
    for sequence in sequences:
        kept.setdefault(re.sub("-(DPM|FRCNN|SDP)$", "", sequence.name), sequence)
    if left_out := [sequence.name for sequence in sequences if sequence not in kept.values()]:
        _LOGGER.warning("copies of a sequence with the same images are not used: %s", ", ".join(left_out))
    return list(kept.values())


def _classes_that_occur(arguments: Mapping[str, Any]) -> list[str]:
    """Of MOT17's thirteen classes, or those of labels.txt, the ones that have objects."""
    loaded = load_mot(**arguments)
    labels = {annotation["category_id"] for record in loaded.dicts for annotation in record["annotations"]}
    return [loaded.class_names[label] for label in sorted(labels)]


def _yolo_parts(path: Path, options: dict) -> Parts:
    names = options.pop("class_names", None) or _yolo_names(path)
    # As Roboflow exports it: train/images, train/labels, valid/images ...
    roots = {folder.name: folder for folder in _yolo_roots(path)}
    parts: Parts = {}
    for name, root in roots.items() or {"": path}.items():
        separate = (root / "images").is_dir() or (root / "labels").is_dir()
        images = (root / "images").is_dir() or not separate
        where = root / ("" if not separate else "images" if images else "labels")
        for split in [folder.name for folder in folders_in(where) if role_of(folder.name)] or [""]:
            if images:
                _require_folders_of_videos(where / split)
            arguments = {"root": str(root), "class_names": names, "split": split}
            if "video_root" not in options and not images:
                videos = [folder.name for folder in folders_in(where / split)]
                arguments |= _video_files(videos, [root / "videos" / split, root / "videos", root])
            _add_part(parts, name or split, arguments | options, path)
    return parts


def _yolo_roots(path: Path) -> list[Path]:
    """The folders of parts with images of their own."""
    return [folder for folder in folders_in(path) if role_of(folder.name) and (folder / "images").is_dir()]


def _require_folders_of_videos(folder: Path) -> None:
    """Raises UserError if images lie side by side: which of them are the frames of one video, nobody knows."""
    if files := image_files_in(folder):
        raise UserError(
            f"{folder}: {len(files)} images lie in it, expected a folder for each video, such as "
            f"{folder / 'clip1' / files[0].name}: sort them, and their labels, into folders"
        )


def _yolo_names(path: Path) -> str | list[str]:
    """The path of a data.yaml, or the lines of another list of classes."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (path / name).is_file():
            return str(path / name)
    for name in _NAMES:
        if (path / name).is_file():
            lines = read_text(path / name, "the names of the classes").splitlines()
            return [line.strip() for line in lines if line.strip()]
    raise UserError(
        f"--data {path}: YOLO's labels have numbers for classes, and there is no data.yaml with their names: write one "
        "(names: [elf, gnome]), or give --class-names elf,gnome"
    )


def _vid_parts(path: Path, options: dict) -> Parts:
    splits = [folder.name for folder in folders_in(path / "Data" / "VID")]
    names = options.get("class_names") or _names_in_xml(path)
    parts: Parts = {}
    for split in splits:
        if (path / "Annotations" / "VID" / split).is_dir():
            arguments = {"root": str(path), "split": split, "class_names": list(names)}
            parts[split] = arguments
    return parts


def _names_in_xml(path: Path) -> Sequence[str]:
    """The classes of a folder in the layout of ImageNet VID: VID's, or those of the set, or all names in its XML."""
    names = default_classes(path)
    known = {*names, *VID_WNIDS}
    found: set[str] = set()
    for file in (path / "Annotations" / "VID").rglob("*.xml"):
        if not is_foreign(file.name):
            found.update(re.findall(r"<name>\s*([^<]+?)\s*</name>", file.read_text(encoding="utf-8", errors="replace")))
            if tuple(names) == VID_CLASSES and found and found <= known:
                return names  # the first file tells ImageNet VID itself, which has a million of them
    return names if found <= known else sorted(found)


def _uavdt_parts(path: Path, options: dict) -> Parts:
    parts: Parts = {}
    for split, sequences in UAVDT_SEQUENCES.items():
        if all((path / "UAV-benchmark-M" / name).is_dir() for name in sequences):
            parts[split] = {"root": str(path), "split": split}
    return parts


_FILES = {"cvat": ("path", (".xml",)), "label_studio": ("json_file", (".json",)), "epic": ("csv_file", (".csv",))}
"""{format: the argument that takes its file, the suffixes of such files}."""

_FOLDERS = {"visdrone": "root", "bdd": "path"}
"""{format: the argument that takes the folder of a part}."""


def _recognized_files(name: str, folder: Path) -> list[Path]:
    """The annotation files of a format in a folder, or in `annotations` or `labels` below it."""
    found = []
    for place in (folder, folder / "annotations", folder / "labels"):
        files = sorted(place.iterdir()) if place.is_dir() else []
        found += [file for file in files if file.name.endswith(_FILES[name][1]) and not is_foreign(file.name)]
    return [file for file in found if FORMATS[name].recognizes(file)]


def _parts_of_files(name: str) -> Callable[[Path, dict], Parts]:
    """A part for each annotation file, with the video files beside it unless there is a folder of images."""

    def find(path: Path, options: dict) -> Parts:
        root = path if path.is_dir() else path.parent
        parts: Parts = {}
        files = [path] if path.is_file() else _recognized_files(name, path)
        if len(files) != 1 and FORMATS[name].recognizes(path) and not any(role_of(file.stem) for file in files):
            files = [path]  # CVAT exports each task by itself: its reader takes the folder
        for file in files:
            arguments: dict[str, Any] = {_FILES[name][0]: str(file)}
            if "video_root" not in options and not (root / "images").is_dir():
                arguments |= _folder_of_videos([root, root / "videos", root.parent / "videos"])
            _add_part(parts, file.stem, arguments | options, path)
        return parts

    return find


def _add_part(parts: Parts, name: str, arguments: dict[str, Any], path: Path) -> None:
    """Raises UserError if there is a part of this name."""
    if name in parts:
        raise UserError(f"--data {path}: two annotation files are called {name!r}: keep one, or name the one to use")
    parts[name] = arguments


def _folder_of_videos(folders: Sequence[Path]) -> dict[str, str]:
    """The first of the folders that has video files, and the suffix that most of them have."""
    for folder in folders:
        suffixes = [file.suffix for file in _videos_in(folder)]
        if suffixes:
            return {"video_root": str(folder), "video_suffix": max(sorted(set(suffixes)), key=suffixes.count)}
    return {}


def _parts_of_folders(name: str) -> Callable[[Path, dict], Parts]:
    """A folder that is a part, or those below it that are."""

    def find(path: Path, options: dict) -> Parts:
        folders = [path] if FORMATS[name].recognizes(path) else folders_in(path)
        parts: Parts = {}
        for folder in folders:
            if FORMATS[name].recognizes(folder):
                parts[folder.name] = {_FOLDERS[name]: str(folder)} | _images_beside(name, folder) | options
        return parts

    return find


def _images_beside(name: str, folder: Path) -> dict[str, str]:
    """`image_root`, where a format takes one and the images are in a folder `images` beside the annotations."""
    beside = [folder.parent / "images" / folder.name, folder.parent.parent / "images" / folder.name]
    beside.append(folder.parent / "images")
    found = [place for place in beside if place.is_dir()]
    return {"image_root": str(found[0])} if found and "image_root" in FORMATS[name].options else {}


_FINDERS: dict[str, Callable[[Path, dict], Parts] | None] = {
    "imagenet_vid": _vid_parts,
    "uavdt": _uavdt_parts,
    "mot": _mot_parts,
    "yolo": _yolo_parts,
    "cvat": _parts_of_files("cvat"),
    "label_studio": _parts_of_files("label_studio"),
    "visdrone": _parts_of_folders("visdrone"),
    "bdd": _parts_of_folders("bdd"),
    "epic": _parts_of_files("epic"),
    "coco_video": _coco_parts,
}
