#!/usr/bin/env python3
"""Pictures of what a model is trained on: boxes with class and track id.

    python tools/visualize_data.py --config-file configs/quick/RDN.yaml --source dataloader --output-dir output/clips

`annotation` draws the frames of DATASETS.TRAIN as they are annotated. `dataloader` draws training clips as the model
gets them, after augmentation: the key frame on the left, its supports to the right, with their distance in frames.
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
from vod2.data import as_video_dicts, build_video_train_loader
from vod2.data.clips import read_frames
from vod2.data.clips.video_mapper import to_instances
from vod2.engine import cli, load_config
from vod2.engine.registration import add_register_option
from vod2.structures import Role
from vod2.visualization import class_color

_GAP = 4  # pixels between two frames
_SHORT_SIDE = 320  # smaller frames are enlarged to it, for the sake of the labels


def draw(image: np.ndarray, instances: Instances | None, class_names: Sequence[str], title: str) -> np.ndarray:
    """An RGB picture of `image` ((H, W, 3) uint8 RGB) with a title and the boxes of `instances`."""
    visualizer = Visualizer(image, scale=max(1.0, _SHORT_SIDE / min(image.shape[:2])))
    if instances is not None:
        labels = [
            class_names[label] if track < 0 else f"{class_names[label]} #{track}"
            for label, track in zip(instances.gt_classes.tolist(), instances.gt_track_ids.tolist(), strict=True)
        ]
        colors = [np.array(class_color(label)[::-1]) / 255 for label in instances.gt_classes.tolist()]
        visualizer.overlay_instances(
            boxes=instances.gt_boxes.tensor.numpy(), labels=labels, assigned_colors=colors, alpha=1
        )
    visualizer.output = visualizer.draw_text(title, (0, 0), horizontal_alignment="left", color="w")
    return visualizer.output.get_image()


def class_names_of(cfg: CfgNode) -> list[str]:
    """The classes of DATASETS.TRAIN, which some datasets know only once they are loaded."""
    return MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes


def annotated_frames(cfg: CfgNode, num: int) -> Iterator[tuple[str, np.ndarray]]:
    """(image id, picture) of `num` frames, evenly spread over DATASETS.TRAIN."""
    for name in cfg.DATASETS.TRAIN:
        cli.require_dataset(name)
    records = as_video_dicts(get_detection_dataset_dicts(list(cfg.DATASETS.TRAIN), filter_empty=False))
    class_names = class_names_of(cfg)
    for position in range(min(num, len(records))):
        record = records[position * len(records) // min(num, len(records))]
        image = read_frames(record, [record["frame_index"]], format="RGB")[record["frame_index"]]
        # The mapper's own function draws what it would train on, crowds left out.
        unchanged = transforms.TransformList([transforms.NoOpTransform()])
        instances = to_instances(record.get("annotations", []), unchanged, image.shape[:2])
        yield str(record["image_id"]), draw(image, instances, class_names, str(record["frame_index"]))


def clips(cfg: CfgNode, num: int) -> Iterator[tuple[str, np.ndarray]]:
    """(image id, picture) of the first `num` training clips."""
    cfg = cfg.clone()
    # One clip at a time, without processes that would read ahead.
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0])
    loader = build_video_train_loader(cfg)
    class_names = class_names_of(cfg)
    for (clip,) in itertools.islice(loader, num):
        tiles = []
        for frame in (clip, *clip["support"]):
            if frame.get("role") is Role.KEY:  # the key frame itself, which is there
                continue
            title = "key"
            if "role" in frame:
                title = f"{frame['role'].value} {frame['frame_index'] - clip['frame_index']:+d}"
            pixels = detection_utils.convert_image_to_rgb(frame["image"].permute(1, 2, 0), cfg.INPUT.FORMAT)
            tiles.append(draw(pixels, frame.get("instances"), class_names, title))
        gap = np.full((len(tiles[0]), _GAP, 3), 255, np.uint8)
        row = [part for tile in tiles for part in (gap, tile)][1:]
        yield str(clip["image_id"]), np.concatenate(row, axis=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--source", choices=("annotation", "dataloader"), required=True, help="what to draw")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="where the PNG files go")
    parser.add_argument("--num", type=int, default=10, metavar="N", help="pictures to make (default 10)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    cfg = load_config(args.config_file, args.opts)
    pictures = (annotated_frames if args.source == "annotation" else clips)(cfg, args.num)
    for number, (image_id, picture) in enumerate(pictures):
        path = Path(args.output_dir, f"{number:04d}-{image_id.replace('/', '-')}.png")
        with replacing(path) as temporary:
            Image.fromarray(picture).save(temporary)
        print(path)


if __name__ == "__main__":
    cli.run(main)
