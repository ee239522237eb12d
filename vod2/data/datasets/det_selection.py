"""Which still images stand for a class: a selection of ImageNet DET, and a limit for any dataset of stills."""

import logging
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vod2.data.datasets.files import files_in, folders_in
from vod2.data.datasets.ilsvrc import VID_CLASSES, category_ids, parse_xml
from vod2.errors import UserError

logger = logging.getLogger(__name__)

_LINES_PER_CLASS = 2000  # as in the published list, but for its 8,591 of snakes
_NAMED_BY = 50  # annotations of a folder that tell which class it is of
_SYNSETS = "ILSVRC2013_train"  # its folders are named after synsets; in the others every image is of its own classes


def derive_images(root: str | os.PathLike, class_names: Sequence[str] = VID_CLASSES) -> list[str]:
    """A selection of DET's images, made as the published list of 30 classes is made as far as the folders tell.

    The images of a class are those in the folders of its synset and of the synsets below it, and those of the folders
    that hold all kinds (ILSVRC2014_train_*) whose annotation names the class. No hierarchy of synsets is needed: DET
    annotates a Chihuahua as a dog, so what most annotations of a folder name is what the folder is of.

    Of a class with more than 2,000 images that many are taken, always the same ones. Classes are counted alone: an
    image of two classes may be taken for either, or for both, and then comes twice, as in the published list.

    Args:
        root: folder with Data and Annotations.
        class_names: readable names by category id.

    Returns:
        Paths below Data/DET without suffix, class after class.
    """
    categories = category_ids(class_names)
    images: dict[int, list[str]] = {category: [] for category in range(len(class_names))}
    for folder in _folders(Path(root, "Data", "DET", "train")):
        paths = sorted(_path(root, image) for image in files_in(folder, ".JPEG"))
        if folder.parent.name == _SYNSETS:
            # What a folder is of says more than its images: few of them need to be parsed.
            category = categories.get(_synset_of(root, folder.name, paths, categories))
            if category is not None:
                images[category] += paths
            continue
        for path in tqdm(paths, desc=folder.name, unit="file", disable=None):
            # A set: an image with several objects of a class counts once for it.
            named = {categories[name] for name in _names(root, path) if name in categories}
            for category in named:
                images[category].append(path)
    selected = []
    for class_paths in images.values():
        selected += _select(class_paths)
    return selected


def limit_images_per_class(dicts: Sequence[dict], limit: int) -> list[dict]:
    """Keep `limit` images of each class, always the same ones, in their order. Images without objects stay.

    Classes are counted alone: an image of several goes only if each of them has enough without it. A class may so have
    more than `limit` images that came with others.
    """
    counts: Counter[int] = Counter()
    kept = []
    for position in sorted(range(len(dicts)), key=lambda i: (_checksum(str(dicts[i]["image_id"])), i)):
        classes = {annotation["category_id"] for annotation in dicts[position].get("annotations", ())}
        if not classes or any(counts[category] < limit for category in classes):
            kept.append(position)
        # An image that is dropped counts, too, but only for classes that have enough already.
        counts.update(classes)
    return [dicts[position] for position in sorted(kept)]


def _folders(train: Path) -> Iterator[Path]:
    """Those that hold images, in order."""
    for folder in folders_in(train):
        yield from folders_in(folder) if folder.name == _SYNSETS else [folder]


def _path(root: str | os.PathLike, image: Path) -> str:
    return image.relative_to(Path(root, "Data", "DET")).with_suffix("").as_posix()


def _synset_of(root: str | os.PathLike, name: str, paths: Sequence[str], categories: Mapping[str, int]) -> str:
    """The name that a folder's objects have: its own, or that of the synset above which DET annotates."""
    if name in categories:
        return name
    images: Counter[str] = Counter()
    for path in paths[:_NAMED_BY]:
        images.update(_names(root, path))
    # The most frequent one; of two that are equally frequent the first by name, on every machine.
    return min(images, key=lambda synset: (-images[synset], synset), default=name)


def _names(root: str | os.PathLike, path: str) -> set[str]:
    """The names in an image's annotation; none without one, as in ILSVRC2013_train_extra, which shows no class."""
    file = Path(root, "Annotations", "DET", f"{path}.xml")
    if not file.is_file():
        return set()
    try:
        return {thing.name for thing in parse_xml(file)[2]}
    except UserError as error:
        # The loader stops at the file if its image is selected; it is no reason to select none.
        logger.warning("Not looked at for the selection of images: %s", error)
        return set()


def _select(paths: Collection[str]) -> list[str]:
    """At most `_LINES_PER_CLASS` of them, in their order."""
    return sorted(sorted(paths, key=lambda path: (_checksum(path), path))[:_LINES_PER_CLASS])


def _checksum(text: str) -> int:
    """An order that is as good as random, and the same on every machine."""
    return zlib.crc32(text.encode())
