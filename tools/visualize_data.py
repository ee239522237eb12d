#!/usr/bin/env python3
"""Pictures of what a model is trained on: boxes with class and track id.

    python tools/visualize_data.py --config-file configs/quick/RDN.yaml --source dataloader --output-dir output/clips

`annotation` draws the frames of DATASETS.TRAIN as they are annotated. `dataloader` draws training clips as the model gets
them, after augmentation: the key frame on the left, its supports to the right, each with its distance in frames.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vod2.atomic import replacing
from vod2.d2 import (
    CfgNode,
    Instances,
    MetadataCatalog,
    Visualizer,
    detection_utils,
    get_detection_dataset_dicts,
    transforms,
)
from vod2.data import build_video_train_loader
from vod2.data.video_mapper import to_instances
from vod2.engine import cli, load_config

_GAP = 4  # pixels between two frames


def draw(image: np.ndarray, instances: Instances | None, class_names: Sequence[str], title: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB with a title and, of `instances`, gt_boxes, gt_classes and gt_track_ids."""
    visualizer = Visualizer(image)
    if instances is not None:
        labels = [
            class_names[label] if track < 0 else f"{class_names[label]} #{track}"
            for label, track in zip(instances.gt_classes.tolist(), instances.gt_track_ids.tolist(), strict=True)
        ]
        visualizer.overlay_instances(boxes=instances.gt_boxes.tensor.numpy(), labels=labels)
    visualizer.output = visualizer.draw_text(title, (0, 0), horizontal_alignment="left", color="w")
    return visualizer.output.get_image()


def annotated_frames(cfg: CfgNode, class_names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(image id, picture) of the frames of DATASETS.TRAIN, a tenth of them apart from each other at most."""
    for record in get_detection_dataset_dicts(list(cfg.DATASETS.TRAIN), filter_empty=False):
        image = detection_utils.read_image(record["file_name"], format="RGB")
        unchanged = transforms.TransformList([transforms.NoOpTransform()])
        instances = to_instances(record.get("annotations", []), unchanged, image.shape[:2])
        yield str(record["image_id"]), draw(image, instances, class_names, str(record.get("frame_index", "")))


def clips(cfg: CfgNode, class_names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(image id, picture) of training clips, without end."""
    cfg = cfg.clone()
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0])
    for (clip,) in build_video_train_loader(cfg):
        tiles = []
        for frame in (clip, *clip["support"]):
            role = f"{frame['role'].value} {frame['frame_index'] - clip['frame_index']:+d}" if "role" in frame else "key"
            pixels = detection_utils.convert_image_to_rgb(frame["image"].permute(1, 2, 0), cfg.INPUT.FORMAT)
            tiles += [draw(pixels, frame.get("instances"), class_names, role)]
        height = tiles[0].shape[0]
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        row = [part for tile in tiles for part in (gap, tile)][1:]
        yield str(clip["image_id"]), np.concatenate(row, axis=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--source", choices=("annotation", "dataloader"), required=True, help="what to draw")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="where the PNG files go")
    parser.add_argument("--num", type=int, default=10, metavar="N", help="pictures to make (default 10)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    cfg = load_config(args.config_file, args.opts)
    class_names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    pictures = (annotated_frames if args.source == "annotation" else clips)(cfg, class_names)
    for number, (image_id, picture) in enumerate(itertools.islice(pictures, args.num)):
        path = Path(args.output_dir, f"{number:04d}-{image_id.replace('/', '-')}.png")
        with replacing(path) as temporary:
            Image.fromarray(picture).save(temporary)
        print(path)


if __name__ == "__main__":
    cli.run(main)
