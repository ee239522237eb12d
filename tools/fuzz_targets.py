"""Every reader of outside input as a function of the bytes of one file, for tools/fuzz.py and tests/tools/test_fuzz.py.

A target makes its folder once: what else the reader needs is there and whole, and only its one file changes.
"""

import importlib.util
import io
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from vod2.ablation.cost import measured_seconds
from vod2.ablation.suite import load_suite
from vod2.archive.inputs import Signature, find_videos
from vod2.archive.manifest import Manifest
from vod2.checkpoint.files import find_whole, read_checkpoint, read_weights, stored_classes, write_checkpoint
from vod2.checkpoint.io import read_tensors
from vod2.checkpoint.public_file import read_public
from vod2.data.checks import check_dataset, open_source, table
from vod2.data.datasets.coco_video import load_coco_video
from vod2.data.datasets.common import read_image_ids
from vod2.data.datasets.drones_clone import read_distances
from vod2.data.datasets.ilsvrc import AnnotationTable, cached_annotations, read_annotations
from vod2.data.datasets.imagenet_det import load_imagenet_det
from vod2.data.datasets.imagenet_vid import default_classes, load_imagenet_vid, read_frame_list, read_sidecar
from vod2.data.datasets.images import image_size
from vod2.data.datasets.matlab import read_video_labels
from vod2.data.datasets.mot import load_mot
from vod2.data.datasets.uavdt import load_uavdt
from vod2.data.datasets.yolo import load_yolo_video
from vod2.data.synthetic.vod_synth import BENCHMARK, REVISION, check_version
from vod2.engine import load_config
from vod2.engine.class_names import read_names
from vod2.engine.registration import register_files
from vod2.engine.rows import load_rows
from vod2.errors import UserError
from vod2.evaluation import read_relations
from vod2.evaluation.curves import load_curves
from vod2.evaluation.frame_kinds import read_frame_kinds
from vod2.evaluation.runs import read_run
from vod2.video import video_status

TOOLS = Path(__file__).resolve().parent

_CLASSES = ["elf", "gnome"]


class Target(NamedTuple):
    """A reader of one file.

    Args:
        file: what it reads.
        seeds: contents that it takes.
        read: reads `file`; raises a UserError, and nothing else, where that is not as it should be.
    """

    file: Path
    seeds: tuple[bytes, ...]
    read: Callable[[], Any]

    def run(self, content: bytes) -> str:
        """Read the content; returns "" where it was taken, or what the UserError says. Any other error is a fault."""
        self.file.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read()
        except UserError as error:
            return str(error) or "nothing"
        return ""


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _image(path: Path, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{name: np.asarray(values) for name, values in arrays.items()})
    return file.getvalue()


def _check(path: Path, **options: Any) -> None:
    result = check_dataset(open_source(str(path), **options), workers=1, progress=False)
    table(result).encode()


def _both(load: Callable[[], Any], path: Path, **options: Any) -> Callable[[], None]:
    """The check of a dataset and its loader, which must agree: what has no error loads."""

    def read() -> None:
        result = check_dataset(open_source(str(path), **options), workers=1, progress=False)
        table(result).encode()
        try:
            load()
        except UserError as error:
            is_found = any(finding.severity == "error" for finding in result.findings)
            assert is_found, f"the check passes, but: {error}"

    return read


def coco(folder: Path) -> Target:
    """COCO-style and YouTube-VIS JSON."""
    categories = [{"id": 5, "name": "elf"}, {"id": 6, "name": "gnome"}]
    images = [
        {"id": i, "video_id": 1, "frame_id": i, "file_name": f"v/{i}.png", "height": 8, "width": 12} for i in range(2)
    ]
    for image in images:
        _image(folder / image["file_name"])
    note = {"id": 1, "image_id": 0, "category_id": 5, "bbox": [1, 1, 4, 4], "instance_id": 7, "iscrowd": 0}
    videos = {"videos": [{"id": 1, "name": "v"}], "images": images, "annotations": [note]}
    videos["categories"] = categories
    tracks = {
        "videos": [{"id": 1, "file_names": ["v/0.png", "v/1.png"], "length": 2, "height": 8, "width": 12}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None]}],
        "categories": categories,
    }
    file = folder / "set.json"
    return Target(file, (_text(videos), _text(tracks)), _both(lambda: load_coco_video(file), file))


def coco_of_files(folder: Path) -> Target:
    """The same with video files, which are not there: YouTube-VIS then states how many frames there are."""
    tracks = {
        "videos": [{"id": 1, "name": "v", "length": 2, "height": 8, "width": 12}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 5, "bboxes": [[1, 1, 4, 4], None]}],
        "categories": [{"id": 5, "name": "elf"}],
    }
    file = folder / "set.json"
    return Target(file, (_text(tracks),), lambda: load_coco_video(file, video_root=folder))


def coco_packed(folder: Path) -> Target:
    """A packed JSON."""
    import gzip

    target = coco(folder)
    file = folder / "set.json.gz"
    return Target(file, tuple(gzip.compress(seed) for seed in target.seeds), lambda: load_coco_video(file))


def image_ids(folder: Path) -> Target:
    """A JSON list of the frames to take."""
    file = folder / "ids.json"
    return Target(file, (_text(["v/000000", 3]),), lambda: read_image_ids(file))


_XML = b"""<annotation><size><width>12</width><height>8</height></size><object><trackid>3</trackid>
<name>n02118333</name><bndbox><xmax>9</xmax><xmin>1</xmin><ymax>7</ymax><ymin>2</ymin></bndbox><occluded>0</occluded></object></annotation>"""


def _vid(folder: Path, frames: int = 1) -> Path:
    video = "val/a"
    for index in range(frames):
        _image(folder / "Data" / "VID" / video / f"{index:06d}.JPEG")
        xml = folder / "Annotations" / "VID" / video / f"{index:06d}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_bytes(_XML)
    return folder / "Annotations" / "VID" / video


def vid_xml(folder: Path) -> Target:
    """An annotation of ImageNet."""
    file = _vid(folder) / "000000.xml"
    declared = b'<?xml version="1.0" encoding="utf-8"?>' + _XML
    load = _both(lambda: read_annotations([str(file)], {"n02118333": 11}, quiet=True), folder, split="val")
    return Target(file, (_XML, declared, declared.decode().replace("utf-8", "utf-16").encode("utf-16")), load)


def vid_list(folder: Path) -> Target:
    """A list of frames of ImageNet VID."""
    _vid(folder, 2)
    file = folder / "ImageSets" / "VID_val_videos.txt"
    file.parent.mkdir()
    seeds = (b"val/a 1 0 2\n", b"a/000001 1\nval/a/000000 2\n", b"val/a 1 1 2\nval/a 1 0 2\n")
    return Target(file, seeds, _both(lambda: read_frame_list(file, folder, "val"), folder, split="val"))


def vid_sidecar(folder: Path) -> Target:
    """What a synthetic set records of its videos, as far as their loader takes it."""
    file = _vid(folder) / "deterioration.json"

    def load() -> None:
        read_sidecar(folder, "val/a")
        load_imagenet_vid(folder, "val")

    return Target(file, (_text({"0": {"3": {"defocus": 0.5}}}),), _both(load, folder, split="val"))


def synthetic_manifest(folder: Path) -> Target:
    """synthetic.json, which names the classes of a synthetic set."""
    file = folder / "synthetic.json"
    return Target(file, (_text({"class_names": _CLASSES}),), lambda: default_classes(folder))


def benchmark_manifest(folder: Path) -> Target:
    """The manifest of VOD-Synth."""
    seed = {"benchmark": BENCHMARK, "revision": REVISION, "size": "tiny"}
    return Target(folder / "synthetic.json", (_text(seed),), lambda: check_version(folder, "tiny", "make it"))


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
    _image(folder / "Data" / "DET" / "train" / "a" / "0.JPEG")
    annotation = folder / "Annotations" / "DET" / "train" / "a" / "0.xml"
    annotation.parent.mkdir(parents=True)
    annotation.write_bytes(_XML)
    file = folder / "ImageSets" / "DET_train_30classes.txt"
    file.parent.mkdir()
    return Target(file, (b"train/a/0 1\n",), _both(lambda: load_imagenet_det(folder), folder))


def _mot(folder: Path) -> Path:
    sequence = folder / "train" / "A"
    for index in (1, 2):
        _image(sequence / "img1" / f"{index:06d}.jpg")
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_bytes(b"1,7,1,1,4,4,1,1,1\n2,7,1,1,4,4,0,3,1\n2,7,2,1,4,4,1,1,0.1\n")
    return sequence


def mot(folder: Path) -> Target:
    """The ground truth of MOTChallenge."""
    file = _mot(folder) / "gt" / "gt.txt"
    return Target(file, (file.read_bytes(),), _both(lambda: load_mot(folder), folder))


def mot_seqinfo(folder: Path) -> Target:
    """seqinfo.ini of MOTChallenge."""
    file = _mot(folder) / "seqinfo.ini"
    text = b"[Sequence]\nname=A\nimDir=img1\nframeRate=30\nseqLength=2\nimWidth=12\nimHeight=8\nimExt=.jpg\n"
    return Target(file, (text,), _both(lambda: load_mot(folder), folder))


def mot_labels(folder: Path) -> Target:
    """The names of classes that CVAT writes."""
    file = _mot(folder) / "gt" / "labels.txt"
    return Target(file, (b"elf\ngnome\n",), _both(lambda: load_mot(folder), folder))


def uavdt(folder: Path) -> Target:
    """The ground truth of UAVDT."""
    for index in (1, 2):
        _image(folder / "UAV-benchmark-M" / "M0203" / f"img{index:06d}.jpg")
    (folder / "GT").mkdir()
    file = folder / "GT" / "M0203_gt_whole.txt"
    seed = b"1,1,1,1,4,4,1,1,1\n2,1,1,1,4,4,2,3,1\n"
    return Target(file, (seed,), _both(lambda: load_uavdt(folder, "test", ["M0203"]), folder, sequences=["M0203"]))


def _yolo(folder: Path) -> Path:
    _image(folder / "images" / "v" / "0.png")
    label = folder / "labels" / "v" / "0.txt"
    label.parent.mkdir(parents=True)
    label.write_bytes(b"0 .5 .5 .2 .2 4\n1 .5 .5 .2 .2\n")
    return label


def yolo(folder: Path) -> Target:
    """YOLO's labels of a frame."""
    file = _yolo(folder)
    load = _both(lambda: load_yolo_video(folder, _CLASSES), folder, format="yolo", class_names=_CLASSES)
    return Target(file, (file.read_bytes(),), load)


def yolo_names(folder: Path) -> Target:
    """data.yaml of YOLO."""
    _yolo(folder)
    file = folder / "data.yaml"
    seeds = (b"path: x\nnames:\n  0: elf\n  1: gnome\n", b"names: [elf, gnome, 2001-01-01]\nnc: 0x3\n")
    return Target(file, seeds, _both(lambda: load_yolo_video(folder, file), folder, format="yolo"))


def matlab(folder: Path) -> Target:
    """Labels of MATLAB's Video Labeler, packed and not."""
    file = folder / "labels.mat"
    from scipy.io import savemat

    helper = _module(TOOLS.parent / "tests" / "helpers" / "matlab.py")
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


def names_json(folder: Path) -> Target:
    """Names of classes as JSON."""
    file = folder / "names.json"
    return Target(file, (_text(_CLASSES),), lambda: read_names(file))


def names_text(folder: Path) -> Target:
    """Names of classes as lines."""
    file = folder / "names.txt"
    return Target(file, (b"elf\ngnome\n",), lambda: read_names(file))


def config(folder: Path) -> Target:
    """A configuration."""
    (folder / "base.yaml").write_text("SOLVER: {BASE_LR: 0.01}\n")
    file = folder / "config.yaml"
    seeds = (
        b"_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 5\n  STEPS: (3, 4)\nMODEL: {DEVICE: cpu, PIXEL_STD: [1.0, 2, 3]}\n",
        b"SOLVER: &a {MAX_ITER: 7}\n<<: {SEED: 1}\nOUTPUT_DIR: x\nINPUT: {MAX_SIZE_TEST: 0x10}\n",
    )
    return Target(file, seeds, lambda: load_config(str(file)))


def overrides(folder: Path) -> Target:
    """KEY VALUE pairs of a command line, a word on each line."""
    file = folder / "words.txt"
    seeds = (
        b"SOLVER.MAX_ITER\n5\nSOLVER.STEPS\n(3, 4)\nMODEL.DEVICE\ncpu",
        b"INPUT.MIN_SIZE_TRAIN\n[1, 2]\nMODEL.ANCHOR_GENERATOR.SIZES\n[[1.0], [2.5e1]]\nSEED\n-1",
    )

    def read() -> None:
        load_config("", file.read_bytes().decode("utf-8", "surrogateescape").split("\n"))

    return Target(file, seeds, read)


def rows(folder: Path) -> Target:
    """A file of rows, as in configs/ablations."""
    (folder / "base.yaml").write_text("SEED: 1\n")
    file = folder / "rows.yaml"
    row = {"what": "x", "base": "base.yaml", "overrides": {"SEED": 2}, "paper": {"mAP": 81.8}}
    content = {"prefix": "P", "tables": {"T 1": {"what": "y", "kind": "train", "rows": {"A": row}}}}

    def read() -> None:
        for name in load_rows(file).rows:
            load_config(f"{file}:{name}")

    return Target(file, (_text(content), yaml.safe_dump(content).encode()), read)


def suite(folder: Path) -> Target:
    """A suite of tools/ablate.py."""
    (folder / "base.yaml").write_text("SEED: 1\n")
    file = folder / "suite.yaml"
    content = {
        "metrics": ["vid/AP50"],
        "reference": "A",
        "sizes": {"s": {"iterations": 5, "overrides": {"SEED": 3}, "frames": 4, "train": ["x"], "test": ["y"]}},
        "rows": [
            {"name": "A", "config": "base.yaml", "iterations": {"s": 3}, "seconds_per_iteration": 0.5},
            {"name": "B", "config": "base.yaml", "base": "A", "contexts": ["own", "none"], "overrides": {"SEED": 2}},
        ],
    }
    return Target(file, (_text(content), yaml.safe_dump(content).encode()), lambda: load_suite(file))


def registered_file(folder: Path) -> Target:
    """A Python file of --register, which may raise anything: its message is the user's."""
    file = folder / "register.py"
    # Only what cannot be compiled is tried: whatever can is the user's own program.
    return Target(file, (b"x = (\n", b"# coding: utf-7\n+\n", b"\0"), lambda: _compiled(file))


def _compiled(file: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(file.read_bytes(), str(file), "exec")
    except Exception:
        register_files([str(file)])


def frame_kinds(folder: Path) -> Target:
    """Which frames are deteriorated."""
    records = [{"image_id": f"v/{i}", "video_id": "v", "frame_index": i, "video_length": 3} for i in range(3)]
    file = folder / "kinds.json"
    seed = {"v": {"0": ["blur"], "1-2": {"dark": 0.5}}, "v/0": ["noise"]}
    return Target(file, (_text(seed),), lambda: read_frame_kinds(file, records))


def weights(folder: Path) -> Target:
    """A .safetensors file."""
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    file = write_checkpoint(folder, "model", tensors, {}, {"classes": _CLASSES})
    (folder / "model.checkpoint.json").unlink()

    def read() -> None:
        for reader in (read_weights, stored_classes, lambda path: read_public(str(path))):
            try:
                reader(file)
            except UserError:
                continue

    return Target(file, (file.read_bytes(),), read)


def _pth(**options: Any) -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(2, 3)}, "iteration": 3}, content, **options)
    return content.getvalue()


def pth(folder: Path) -> Target:
    """A checkpoint of PyTorch, of today and before 1.6."""
    file = folder / "model_0000001.pth"

    def read() -> None:
        for reader in (read_tensors, read_public):
            try:
                reader(str(file))
            except UserError:
                continue
        find_whole(folder)

    return Target(file, (_pth(), _pth(_use_new_zipfile_serialization=False)), read)


def pkl(folder: Path) -> Target:
    """Arrays of Detectron2's zoo."""
    file = folder / "model.pkl"
    content = {"model": {"a": np.zeros((2, 3), np.float32)}, "__author__": "x"}
    seeds = tuple(pickle.dumps(content, protocol) for protocol in (0, 2, 4))
    return Target(file, seeds, lambda: read_public(str(file)))


def checkpoint_manifest(folder: Path) -> Target:
    """The manifest of a checkpoint; its own SHA-256 is made right, so that what is in it is read."""
    from vod2.checkpoint import files

    written = write_checkpoint(folder, "model_0000001", {"a": torch.zeros(2)}, {"step": {0: torch.ones(1)}}, {})
    file = folder / "model_0000001.checkpoint.json"
    seed = file.read_bytes()

    def read() -> None:
        try:
            manifest = json.loads(file.read_bytes())
            manifest.pop("sha256", None)
            file.write_text(json.dumps(manifest | {"sha256": files._sha256_of(manifest)}))
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass
        for reader in (read_checkpoint, stored_classes, lambda path: find_whole(path.parent)):
            try:
                reader(written)
            except UserError:
                continue

    return Target(file, (seed,), read)


def last_checkpoint(folder: Path) -> Target:
    """The name of the newest checkpoint."""
    write_checkpoint(folder, "model_0000001", {"a": torch.zeros(2)}, {}, {})
    return Target(folder / "last_checkpoint", (b"model_0000001.safetensors",), lambda: find_whole(folder))


_DETECTIONS = {
    "image_ids": ["v/0", "v/1"],
    "image": np.array([0, 1]),
    "boxes": np.array([[1, 1, 4, 4], [2, 2, 5, 5]], np.float32),
    "scores": np.array([0.5, 0.25], np.float32),
    "labels": np.array([0, 1]),
    "evaluated": np.ones(2, bool),
}


def _truth() -> dict[str, Any]:
    header = {"name": "x", "class_names": _CLASSES, "groups": ["slow"], "protocol": "voc", "groups_by": "objects"}
    header |= {"linked_identities": False, "counts_empty_frames": False}
    return {
        "header": json.dumps(header),
        "image_ids": ["v/0", "v/1"],
        "video": np.zeros(2, np.int64),
        "truth_image": np.array([0]),
        "truth_boxes": np.array([[1.0, 1, 4, 4]]),
        "truth_labels": np.array([0], np.int32),
        "truth_ignore": np.zeros(1, bool),
        "track": np.zeros(1, np.int64),
        "frame": np.zeros(1, np.int64),
        "group_by_frame": np.zeros(1, bool),
        "group_frames": np.ones((1, 2), bool),
        "group_objects": np.ones((1, 1), bool),
    }


def detections(folder: Path) -> Target:
    """detections.npz, for comparisons and for tools/link_boxes.py."""
    (folder / "truth.npz").write_bytes(_npz(**_truth()))
    file = folder / "detections.npz"
    read_results = load_tool("link_boxes").read_results

    def read() -> None:
        try:
            read_results(file)
        except UserError:
            pass
        read_run(folder)

    return Target(file, (_npz(**_DETECTIONS),), read)


def truth(folder: Path) -> Target:
    """truth.npz: what detections are held against."""
    (folder / "detections.npz").write_bytes(_npz(**_DETECTIONS))
    return Target(folder / "truth.npz", (_npz(**_truth()),), lambda: read_run(folder))


def curves(folder: Path) -> Target:
    """curves.npz of precision and recall."""
    file = folder / "curves.npz"
    content = _npz(groups=["all"], classes=_CLASSES, positives=[[1, 2]], count=[[1, 0]], scores=[0.5], precision=[1.0])
    return Target(file, (content,), lambda: load_curves(file))


def relations(folder: Path) -> Target:
    """relations.npz, of which BLR links boxes."""
    file = folder / "relations.npz"
    content = _npz(image_ids=["a", "b"], count=[1, 1], proposal_index=[0, 1], next_relation=np.zeros((2, 2)))
    return Target(file, (content,), lambda: read_relations(file))


def results(folder: Path) -> Target:
    """Results in COCO's format, for tools/link_boxes.py."""
    file = folder / "results.json"
    read_results = load_tool("link_boxes").read_results
    entry = {"image_id": "v/0", "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.5}
    return Target(file, (_text([entry, entry | {"image_id": 3}]),), lambda: read_results(file))


def seconds(folder: Path) -> Target:
    """What tools/ablate.py has measured."""
    file = folder / "seconds_per_iteration.json"
    return Target(file, (_text({"cpu": {"A": 0.5}}),), lambda: measured_seconds(folder, "cpu"))


def archive_manifest(folder: Path) -> Target:
    """The SQLite file of an archive."""
    file = folder / "manifest.sqlite"
    manifest = Manifest(file)
    manifest.keep_settings({"weights": "a", "threshold": 0.5})
    manifest.add([("/a.mp4", Signature(10, 1)), ("/b.mp4", Signature(5, 1))])
    manifest.close()

    def read() -> None:
        for log in ("-wal", "-shm"):
            Path(f"{file}{log}").unlink(missing_ok=True)
        opened = Manifest(file)
        try:
            opened.keep_settings({"weights": "a", "threshold": 0.5})
            opened.add([("/a.mp4", Signature(10, 1))])
            opened.recover()
            opened.retry_failed()
            opened.counts()
            opened.pending(None, 5)
            list(opened.rows("pending"))
        finally:
            opened.close()

    return Target(file, (file.read_bytes(),), read)


def archive_list(folder: Path) -> Target:
    """A list of videos."""
    file = folder / "videos.txt"
    return Target(file, (b"# all\na.mp4\n\nsub/b.mp4\n",), lambda: list(find_videos([str(file)])))


def damage_record(folder: Path) -> Target:
    """The record beside a damaged video."""
    file = folder / "record.json"
    tool = load_tool("damage_videos")
    config = tool.DamageConfig()
    return Target(file, (_text({"config": asdict(config)}),), lambda: tool._require_same(file, config))


def png(folder: Path) -> Target:
    """Images, whatever their name ends in."""
    file = folder / "0.png"
    seeds = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        content = io.BytesIO()
        Image.new("RGB", (12, 8)).save(content, kind)
        seeds.append(content.getvalue())

    def read() -> None:
        try:
            image_size(file)
        except UserError:
            pass
        video_status(folder)

    return Target(file, tuple(seeds), read)


def video(folder: Path) -> Target:
    """Video files."""
    import av

    def written(kind: str, codec: str) -> bytes:
        content = io.BytesIO()
        with av.open(content, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for value in range(3):
                image = np.full((32, 32, 3), 60 * value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
            container.mux(stream.encode())
        return content.getvalue()

    file = folder / "clip.mp4"
    seeds = (written("mp4", "mpeg4"), written("avi", "mpeg4"), written("webm", "libvpx"))
    return Target(file, seeds, lambda: video_status(file))


TARGETS: dict[str, Callable[[Path], Target]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        *(coco, coco_of_files, coco_packed, image_ids, vid_xml, vid_list, vid_sidecar, synthetic_manifest),
        *(benchmark_manifest, annotation_cache, det_list, mot, mot_seqinfo, mot_labels, uavdt, yolo, yolo_names),
        *(matlab, workbook, names_json, names_text, config, overrides, rows, suite, registered_file, frame_kinds),
        *(weights, pth, pkl, checkpoint_manifest, last_checkpoint, detections, truth, curves, relations, results),
        *(seconds, archive_manifest, archive_list, damage_record, png, video),
    )
}
"""Name -> makes the target in an empty folder."""


def load_tool(name: str) -> ModuleType:
    """A tool of this folder as a module."""
    return _module(TOOLS / f"{name}.py")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vod2_fuzzed_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
