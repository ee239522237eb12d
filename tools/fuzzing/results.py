"""Readers of weights, of what evaluations wrote, and of archives."""

import io
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzing.target import CLASSES, Target, load_tool, npz, text
from vod2.archive.inputs import Signature, find_videos
from vod2.archive.manifest import Manifest
from vod2.checkpoint.files import find_whole, read_checkpoint, read_weights, stored_classes, write_checkpoint
from vod2.checkpoint.io import read_tensors
from vod2.checkpoint.public_file import read_public
from vod2.commands.link import read_results
from vod2.detections import read_detections
from vod2.errors import UserError
from vod2.evaluation import read_relations
from vod2.evaluation.curves import load_curves
from vod2.evaluation.runs import read_run


def weights(folder: Path) -> Target:
    """A .safetensors file."""
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    file = write_checkpoint(folder, "model", tensors, {}, {"classes": CLASSES})
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
        for reader in (read_tensors, read_public, lambda path: find_whole(Path(path).parent)):
            try:
                reader(str(file))
            except UserError:
                continue

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
    header = {"name": "x", "class_names": CLASSES, "groups": ["slow"], "protocol": "voc", "groups_by": "objects"}
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
    (folder / "truth.npz").write_bytes(npz(**_truth()))
    file = folder / "detections.npz"

    def read() -> None:
        try:
            read_results(file)
        except UserError:
            pass
        read_run(folder)

    return Target(file, (npz(**_DETECTIONS),), read)


def truth(folder: Path) -> Target:
    """truth.npz: what detections are held against."""
    (folder / "detections.npz").write_bytes(npz(**_DETECTIONS))
    return Target(folder / "truth.npz", (npz(**_truth()),), lambda: read_run(folder))


def curves(folder: Path) -> Target:
    """curves.npz of precision and recall."""
    file = folder / "curves.npz"
    content = npz(groups=["all"], classes=CLASSES, positives=[[1, 2]], count=[[1, 0]], scores=[0.5], precision=[1.0])
    return Target(file, (content,), lambda: load_curves(file))


def relations(folder: Path) -> Target:
    """relations.npz, of which BLR links boxes."""
    file = folder / "relations.npz"
    content = npz(image_ids=["a", "b"], count=[1, 1], proposal_index=[0, 1], next_relation=np.zeros((2, 2)))
    return Target(file, (content,), lambda: read_relations(file))


def results(folder: Path) -> Target:
    """Results in COCO's format, for tools/link_boxes.py."""
    file = folder / "results.json"
    entry = {"image_id": "v/0", "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.5}
    return Target(file, (text([entry, entry | {"image_id": 3}]),), lambda: read_results(file))


def found_json(folder: Path) -> Target:
    """Detections of another program in one video, for vod2 link: COCO results, or frames with their boxes."""
    file = folder / "found.json"
    entry = {"image_id": 0, "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.5}
    frames = [{"index": 0, "detections": [{"box": [1, 1, 4, 4], "label": 0, "score": 0.5}]}]
    contents = text([entry, entry | {"image_id": 3}]), text({"class_names": CLASSES, "frames": frames})
    return Target(file, contents, lambda: read_detections(file))


def found_lines(folder: Path) -> Target:
    """The same as JSON lines."""
    file = folder / "found.jsonl"
    lines = (
        text({"index": 0, "boxes": [[1, 1, 4, 4]], "scores": [0.5], "labels": [0]}),
        text({"frame": 2, "detections": [{"box": [1, 1, 4, 4], "label": 0, "score": 0.5}]}),
    )
    return Target(file, (b"\n".join(lines),), lambda: read_detections(file))


def found_mot(folder: Path) -> Target:
    """The same as MOTChallenge text."""
    file = folder / "found.txt"
    lines = b"1,-1,1,1,4,4,0.5,-1,-1,-1\n2,7,1.5,1,4,4,0.25,2,-1,-1\n"
    return Target(file, (lines,), lambda: read_detections(file))


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
    return Target(file, (text({"config": asdict(config)}),), lambda: tool._require_same(file, config))
