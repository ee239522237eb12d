"""A clean set of drawn videos, ways to break one thing in it, and the check of it."""

import re

import cv2
import numpy as np
from PIL import Image

from vod2.data.checks import check_dataset, open_source, table
from vod2.data.checks.findings import KINDS
from vod2.data.synthetic import SyntheticConfig, write_synthetic

TRAIN = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_0000000{}"
LIST = "ImageSets/VID/VID_train_15frames.txt"


def write_clean_set(root):
    """Two videos of "train" and one of "val", of 5 frames of 64 x 96, in the layout of ImageNet VID."""
    config = SyntheticConfig(seed=3, train_videos=2, val_videos=1, frames=5, height=64, width=96, classes=4)
    write_synthetic(config, root)
    return root


def image(root, video=0, frame=2):
    return root / "Data" / "VID" / TRAIN.format(video) / f"{frame:06d}.JPEG"


def annotation(root, video=0, frame=2):
    return root / "Annotations" / "VID" / TRAIN.format(video) / f"{frame:06d}.xml"


def edit(file, old, new, count=1):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


def set_box(file, **sides):
    text = file.read_text()
    for side, value in sides.items():
        text = re.sub(rf"<{side}>[^<]*</{side}>", f"<{side}>{value}</{side}>", text, count=1)
    file.write_text(text)


def check(root, **options):
    result = check_dataset(open_source(str(root), **options), progress=False)
    assert {finding.kind for finding in result.findings} <= KINDS.keys()
    return result


def kinds(result):
    return {(finding.severity, finding.kind) for finding in result.findings}


def only(result, kind):
    """The findings, which are all of one kind."""
    assert {finding.kind for finding in result.findings} == {kind}, table(result)
    return result.findings


def frames(folder, names, size=(8, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name)


def video_file(path, count, size=(32, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size[::-1])
    rng = np.random.default_rng(0)
    for _ in range(count):
        writer.write(rng.integers(0, 255, (*size, 3), np.uint8))
    writer.release()
