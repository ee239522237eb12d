"""Readers of datasets: annotations, lists, and what stands beside them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.target import CLASSES, TOOLS, Target, image, module, text
from vod2.data.checks import check_dataset, open_source, table
from vod2.data.datasets.coco_video import load_coco_video
from vod2.data.datasets.common import read_image_ids
from vod2.data.datasets.drones_clone import read_distances
from vod2.data.datasets.ilsvrc import AnnotationTable, cached_annotations, read_annotations
from vod2.data.datasets.imagenet_det import load_imagenet_det
from vod2.data.datasets.imagenet_vid import default_classes, load_imagenet_vid, read_frame_list, read_sidecar
from vod2.data.datasets.matlab import read_video_labels
from vod2.data.datasets.mot import load_mot
from vod2.data.datasets.uavdt import load_uavdt
from vod2.data.datasets.yolo import load_yolo_video
from vod2.data.synthetic.vod_synth import BENCHMARK, REVISION, check_version
from vod2.errors import UserError

_UNREAD = ("bad_line", "broken_annotation", "missing_annotation")  # kinds of findings that stop a loader


def both(load: Callable[[], Any], path: Path, **options: Any) -> Callable[[], None]:
    """The check of a dataset and its loader, which agree: what has no error loads, what it cannot read does not."""

    def read() -> None:
        result = check_dataset(open_source(str(path), **options), workers=1, progress=False)
        table(result).encode()
        try:
            load()
        except UserError as error:
            is_found = any(finding.severity == "error" for finding in result.findings)
            assert is_found, f"the check passes, but: {error}"
            raise
        unread = [finding for finding in result.findings if finding.severity == "error" and finding.kind in _UNREAD]
        assert not unread, f"it loads, but the check says {unread[0]}"

    return read


def coco(folder: Path) -> Target:
    """COCO-style and YouTube-VIS JSON."""
    categories = [{"id": 5, "name": "elf"}, {"id": 6, "name": "gnome"}]
    images = [
        {"id": i, "video_id": 1, "frame_id": i, "file_name": f"v/{i}.png", "height": 8, "width": 12} for i in range(2)
    ]
    for record in images:
        image(folder / record["file_name"])
    note = {"id": 1, "image_id": 0, "category_id": 5, "bbox": [1, 1, 4, 4], "instance_id": 7, "iscrowd": 0}
    videos = {"videos": [{"id": 1, "name": "v"}], "images": images, "annotations": [note]}
    videos["categories"] = categories
    tracks = {
        "videos": [{"id": 1, "file_names": ["v/0.png", "v/1.png"], "length": 2, "height": 8, "width": 12}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None]}],
        "categories": categories,
    }
    file = folder / "set.json"
    return Target(file, (text(videos), text(tracks)), both(lambda: load_coco_video(file), file))


def coco_of_files(folder: Path) -> Target:
    """The same with video files, which are not there: YouTube-VIS then states how many frames there are."""
    tracks = {
        "videos": [{"id": 1, "name": "v", "length": 2, "height": 8, "width": 12}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None]}],
        "categories": [{"id": 5, "name": "elf"}],
    }
    file = folder / "set.json"
    return Target(file, (text(tracks),), lambda: load_coco_video(file, video_root=folder))


def coco_packed(folder: Path) -> Target:
    """A packed JSON."""
    import gzip

    target = coco(folder)
    file = folder / "set.json.gz"
    return Target(file, tuple(gzip.compress(seed) for seed in target.seeds), lambda: load_coco_video(file))


def image_ids(folder: Path) -> Target:
    """A JSON list of the frames to take."""
    file = folder / "ids.json"
    return Target(file, (text(["v/000000", 3]),), lambda: read_image_ids(file))


_XML = b"""<annotation><size><width>12</width><height>8</height></size><object><trackid>3</trackid>
<name>n02118333</name><bndbox><xmax>9</xmax><xmin>1</xmin><ymax>7</ymax><ymin>2</ymin></bndbox><occluded>0</occluded></object></annotation>"""


def _vid(folder: Path, frames: int = 1) -> Path:
    video = "val/a"
    for index in range(frames):
        image(folder / "Data" / "VID" / video / f"{index:06d}.JPEG")
        xml = folder / "Annotations" / "VID" / video / f"{index:06d}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_bytes(_XML)
    return folder / "Annotations" / "VID" / video


def vid_xml(folder: Path) -> Target:
    """An annotation of ImageNet."""
    file = _vid(folder) / "000000.xml"
    declared = b'<?xml version="1.0" encoding="utf-8"?>' + _XML
    load = both(lambda: read_annotations([str(file)], {"n02118333": 11}, quiet=True), folder, split="val")
    return Target(file, (_XML, declared, declared.decode().replace("utf-8", "utf-16").encode("utf-16")), load)


def vid_list(folder: Path) -> Target:
    """A list of frames of ImageNet VID."""
    _vid(folder, 2)
    file = folder / "ImageSets" / "VID_val_videos.txt"
    file.parent.mkdir()
    seeds = (b"val/a 1 0 2\n", b"a/000001 1\nval/a/000000 2\n", b"val/a 1 1 2\nval/a 1 0 2\n")
    return Target(file, seeds, both(lambda: read_frame_list(file, folder, "val"), folder, split="val"))


def vid_sidecar(folder: Path) -> Target:
    """What a synthetic set records of its videos, as far as their loader takes it."""
    file = _vid(folder) / "deterioration.json"

    def load() -> None:
        read_sidecar(folder, "val/a")
        load_imagenet_vid(folder, "val")

    return Target(file, (text({"0": {"3": {"defocus": 0.5}}}),), both(load, folder, split="val"))


def synthetic_manifest(folder: Path) -> Target:
    """synthetic.json, which names the classes of a synthetic set."""
    file = folder / "synthetic.json"
    return Target(file, (text({"class_names": CLASSES}),), lambda: default_classes(folder))


def benchmark_manifest(folder: Path) -> Target:
    """The manifest of VOD-Synth."""
    seed = {"benchmark": BENCHMARK, "revision": REVISION, "size": "tiny"}
    return Target(folder / "synthetic.json", (text(seed),), lambda: check_version(folder, "tiny", "make it"))


def annotation_cache(folder: Path) -> Target:
    """The cache of parsed annotations, which is read without being parsed again."""
    xml = _vid(folder) / "000000.xml"
    file = folder / ".vod2_cache" / "fuzz.npz"

    def read() -> AnnotationTable:
        parsed = read_annotations([str(xml)], {"n02118333": 0}, quiet=True)
        return cached_annotations(folder, "fuzz", [str(xml)], {"n02118333": 0}, lambda: parsed)

    read()
    seed = file.read_bytes()

    def checked() -> None:
        cached = read()
        assert len(cached.sizes) == len(cached.counts) == 1 and cached.counts.sum() == len(cached.boxes)

    return Target(file, (seed,), checked)


def det_list(folder: Path) -> Target:
    """The list of images of ImageNet DET."""
    image(folder / "Data" / "DET" / "train" / "a" / "0.JPEG")
    annotation = folder / "Annotations" / "DET" / "train" / "a" / "0.xml"
    annotation.parent.mkdir(parents=True)
    annotation.write_bytes(_XML)
    file = folder / "ImageSets" / "DET_train_30classes.txt"
    file.parent.mkdir()
    return Target(file, (b"train/a/0 1\n",), both(lambda: load_imagenet_det(folder), folder))


def _mot(folder: Path) -> Path:
    sequence = folder / "train" / "A"
    for index in (1, 2):
        image(sequence / "img1" / f"{index:06d}.jpg")
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_bytes(b"1,7,1,1,4,4,1,1,1\n2,7,1,1,4,4,0,3,1\n2,7,2,1,4,4,1,1,0.1\n")
    return sequence


def mot(folder: Path) -> Target:
    """The ground truth of MOTChallenge."""
    file = _mot(folder) / "gt" / "gt.txt"
    return Target(file, (file.read_bytes(),), both(lambda: load_mot(folder), folder))


def mot_seqinfo(folder: Path) -> Target:
    """seqinfo.ini of MOTChallenge."""
    file = _mot(folder) / "seqinfo.ini"
    text = b"[Sequence]\nname=A\nimDir=img1\nframeRate=30\nseqLength=2\nimWidth=12\nimHeight=8\nimExt=.jpg\n"
    return Target(file, (text,), both(lambda: load_mot(folder), folder))


def mot_labels(folder: Path) -> Target:
    """The names of classes that CVAT writes."""
    file = _mot(folder) / "gt" / "labels.txt"
    return Target(file, (b"elf\ngnome\n",), both(lambda: load_mot(folder), folder))


def uavdt(folder: Path) -> Target:
    """The ground truth of UAVDT."""
    for index in (1, 2):
        image(folder / "UAV-benchmark-M" / "M0203" / f"img{index:06d}.jpg")
    (folder / "GT").mkdir()
    file = folder / "GT" / "M0203_gt_whole.txt"
    seed = b"1,1,1,1,4,4,1,1,1\n2,1,1,1,4,4,2,3,1\n"
    return Target(file, (seed,), both(lambda: load_uavdt(folder, "test", ["M0203"]), folder, sequences=["M0203"]))


def _yolo(folder: Path) -> Path:
    image(folder / "images" / "v" / "0.png")
    label = folder / "labels" / "v" / "0.txt"
    label.parent.mkdir(parents=True)
    label.write_bytes(b"0 .5 .5 .2 .2 4\n1 .5 .5 .2 .2\n")
    return label


def yolo(folder: Path) -> Target:
    """YOLO's labels of a frame."""
    file = _yolo(folder)
    load = both(lambda: load_yolo_video(folder, CLASSES), folder, format="yolo", class_names=CLASSES)
    return Target(file, (file.read_bytes(),), load)


def yolo_names(folder: Path) -> Target:
    """data.yaml of YOLO."""
    _yolo(folder)
    file = folder / "data.yaml"
    seeds = (b"path: x\nnames:\n  0: elf\n  1: gnome\n", b"names: [elf, gnome, 2001-01-01]\nnc: 0x3\n")
    return Target(file, seeds, both(lambda: load_yolo_video(folder, file), folder, format="yolo"))


def matlab(folder: Path) -> Target:
    """Labels of MATLAB's Video Labeler, packed and not."""
    file = folder / "labels.mat"
    from scipy.io import savemat

    helper = module(TOOLS.parent / "tests" / "helpers" / "matlab.py")
    helper.write_labels(file, [{"DRONE": [[1, 2, 3, 4]]}, {}], nested=True)
    seeds = [file.read_bytes()]
    for packed in (False, True):  # without labels, but packed as MATLAB does
        content = io.BytesIO()
        savemat(content, {"x": np.zeros((2, 2)), "y": {"a": ["b", 1]}}, do_compression=packed)
        seeds.append(content.getvalue())
    return Target(file, tuple(seeds), lambda: read_video_labels(file))


def workbook(folder: Path) -> Target:
    """The table of the drones' clips, an .xlsx."""
    import zipfile

    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    titles = ("SENSOR", "CLASS", "NUMBER", "DISTANCE BIN", "IR", "DRONE", "1", "CLOSE")
    texts = "".join(f"<si><t>{title}</t></si>" for title in titles)
    rows = ""
    for row in range(2):
        cells = (f'<c r="{column}{row + 1}" t="s"><v>{4 * row + k}</v></c>' for k, column in enumerate("ABCD"))
        rows += f"<row>{''.join(cells)}</row>"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{texts}</sst>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{rows}</sheetData></worksheet>")
    file = folder / "table.xlsx"
    return Target(file, (content.getvalue(),), lambda: read_distances(file))
