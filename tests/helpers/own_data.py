"""A few annotated videos in any layout that `vod2 train --data` takes: a square moves, an "elf" or a "gnome"."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from helpers.videos import write_video

SIZE = (64, 96)  # height, width
CLASSES = ["elf", "gnome"]


def box_at(index: int) -> tuple[int, int, int, int]:
    """xyxy of the object in frame `index` of every video."""
    return 8 + 3 * index, 20, 32 + 3 * index, 44


def frames_of(label: int, count: int) -> list[np.ndarray]:
    frames = []
    for index in range(count):
        frame = np.random.default_rng(index).integers(0, 60, (*SIZE, 3)).astype(np.uint8)
        x1, y1, x2, y2 = box_at(index)
        frame[y1:y2, x1:x2] = (40, 220, 60) if label else (60, 40, 230)
        frames.append(frame)
    return frames


def write_images(folder: Path, frames: Sequence[np.ndarray], pattern: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / pattern.format(index)), frame)


def coco_json(videos: dict[str, int], count: int) -> dict:
    """{name: label} -> COCO-style video JSON of `count` frames each."""
    content: dict[str, list] = {"videos": [], "images": [], "annotations": []}
    content["categories"] = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    for number, (name, label) in enumerate(videos.items(), start=1):
        content["videos"].append({"id": number, "name": name})
        for index in range(count):
            image = 100 * number + index
            x1, y1, x2, y2 = box_at(index)
            content["images"].append(
                {"id": image, "video_id": number, "frame_id": index, "file_name": f"{name}/{index:06d}.png"}
                | {"height": SIZE[0], "width": SIZE[1]}
            )
            content["annotations"].append(
                {"id": image, "image_id": image, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                | {"instance_id": number, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            )
    return content


def write_layout(root: Path, layout: str, videos: dict[str, int] | None = None, count: int = 6) -> Path:
    """Write {name of a video: label} in a layout: coco, coco_split, coco_files, mot, yolo, yolo_split, vid."""
    videos = {"a1": 0, "a2": 0, "b1": 1, "b2": 1} if videos is None else videos
    root.mkdir(parents=True, exist_ok=True)
    images = {
        "coco": ("images/{name}", "{:06d}.png"),
        "coco_split": ("images/{name}", "{:06d}.png"),
        "mot": ("{name}/img1", "{:06d}.png"),
        "yolo": ("images/{name}", "{:06d}.png"),
        "yolo_split": ("images/{split}/{name}", "{:06d}.png"),
        "vid": ("Data/VID/train/{name}", "{:06d}.JPEG"),
    }
    splits = {name: "val" if name.endswith("2") else "train" for name in videos}
    for name, label in videos.items():
        frames = frames_of(label, count)
        if layout == "coco_files":
            (root / "videos").mkdir(exist_ok=True)
            write_video(root / "videos" / f"{name}.mp4", frames)
            continue
        folder, pattern = images[layout]
        if layout == "mot":  # it counts from 1
            frames = [frames[0], *frames]
        write_images(root / folder.format(name=name, split=splits[name]), frames, pattern)
        if layout == "mot":
            (root / name / "img1" / "000000.png").unlink()
        _write_labels(root, layout, name, label, splits[name], count)
    if layout in ("coco", "coco_files"):
        (root / "mine.json").write_text(json.dumps(coco_json(videos, count)))
    if layout == "coco_split":
        (root / "annotations").mkdir()
        for split in ("train", "val"):
            of_split = {name: label for name, label in videos.items() if splits[name] == split}
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_json(of_split, count)))
    if layout.startswith("yolo"):
        (root / "data.yaml").write_text("names: [elf, gnome]\n")
    return root


def _write_labels(root: Path, layout: str, name: str, label: int, split: str, count: int) -> None:
    height, width = SIZE
    lines = []
    for index in range(count):
        x1, y1, x2, y2 = box_at(index)
        if layout == "mot":
            lines.append(f"{index + 1},1,{x1},{y1},{x2 - x1},{y2 - y1},1,{label + 1},1\n")
        elif layout.startswith("yolo"):
            folder = root / "labels" / (split if layout == "yolo_split" else "") / name
            folder.mkdir(parents=True, exist_ok=True)
            sides = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            (folder / f"{index:06d}.txt").write_text(f"{label} {' '.join(map(str, sides))} 1\n")
        elif layout == "vid":
            folder = root / "Annotations" / "VID" / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:06d}.xml").write_text(
                f"<annotation><size><width>{width}</width><height>{height}</height></size><object><trackid>0</trackid>"
                f"<name>{CLASSES[label]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
                f"<ymax>{y2}</ymax></bndbox><occluded>0</occluded></object></annotation>"
            )
    if layout == "mot":
        (root / name / "gt").mkdir()
        (root / name / "gt" / "gt.txt").write_text("".join(lines))
        (root / name / "gt" / "labels.txt").write_text("elf\ngnome\ntroll\n")
