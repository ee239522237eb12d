#!/usr/bin/env python3
r"""Detect objects in a video: draws them into a copy of it, and writes them as JSON if asked.

    python tools/demo.py --config-file configs/RDN_R101.yaml --video-input in.mp4 --output out.mp4 \
        --opts MODEL.WEIGHTS rdn.pth
"""

import argparse
from collections.abc import Sequence

from tqdm import tqdm

from vod2.atomic import write_json
from vod2.checkpoint import require_weights
from vod2.d2 import CfgNode, Instances, MetadataCatalog
from vod2.data.reader import VideoReader
from vod2.engine import VideoPredictor, cli, load_config
from vod2.visualization import VideoWriter, class_name, draw_instances


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--video-input", required=True, metavar="PATH", help="a video file, or a folder of images")
    parser.add_argument("--output", required=True, metavar="FILE", help="the video to write, such as out.mp4")
    parser.add_argument("--json", metavar="FILE", help="also write the detections as JSON")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="S", help="least score (default .5)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    return parser.parse_args(words)


def class_names_of(cfg: CfgNode) -> list[str]:
    """The class names of the first test dataset, empty where it has none."""
    if not cfg.DATASETS.TEST:
        return []
    return list(getattr(MetadataCatalog.get(cfg.DATASETS.TEST[0]), "thing_classes", []))


def as_record(index: int, instances: Instances, class_names: Sequence[str]) -> dict:
    """The detections of a frame as plain values; boxes are xyxy in pixels."""
    columns = (instances.pred_boxes.tensor.tolist(), instances.pred_classes.tolist(), instances.scores.tolist())
    detections = [
        {"box": box, "class": class_name(label, class_names), "label": label, "score": score}
        for box, label, score in zip(*columns, strict=True)
    ]
    return {"index": index, "detections": detections}


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config_file, args.opts)
    require_weights(cfg.MODEL.WEIGHTS)
    reader = VideoReader(args.video_input)
    writer = VideoWriter(args.output, reader.fps, reader.size)
    class_names = class_names_of(cfg)
    stream = VideoPredictor(cfg).stream(reader)
    frames = []
    with writer:
        for index, image, output in tqdm(stream, total=reader.frame_count_hint, unit="frame"):
            instances = output["instances"].to("cpu")
            instances = instances[instances.scores >= args.confidence_threshold]
            writer.write(draw_instances(image, instances, class_names, args.confidence_threshold))
            frames.append(as_record(index, instances, class_names))
    if args.json:
        width, height = reader.size
        video = {"video": args.video_input, "fps": float(reader.fps), "width": width, "height": height}
        write_json(args.json, {**video, "class_names": class_names, "frames": frames})


if __name__ == "__main__":
    cli.run(main)
