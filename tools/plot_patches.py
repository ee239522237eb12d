#!/usr/bin/env python3
r"""What CSMN sees in the patches of its detections: their importance, and the similarity of supports to them.

    python tools/plot_patches.py --config-file configs/quick/CSMN.yaml --video-input in.mp4 --frame 20 \
        --output patches.png --opts MODEL.WEIGHTS output/quick/CSMN/model_final.safetensors

One row for each of the surest detections of the frame. First the RoI that it was made of, with the importance of each
patch (alpha, 1 in all). Then the support RoIs that it took most from, each with the similarity of that RoI to each
patch of the detection (w, for each patch 1 over all supports); a number stands where the patch of the detection is,
whatever part of the support it resembles. The redder, the nearer to the largest number of that RoI.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from vod2.checkpoint import require_weights
from vod2.d2 import CfgNode, Instances, MetadataCatalog
from vod2.engine import VideoPredictor, cli, load_config
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.engine.relations import RelationWatch
from vod2.errors import UserError
from vod2.image_files import write_image
from vod2.modeling import Aggregated
from vod2.structures import ProposalSet, TemporalContext
from vod2.video import VideoReader
from vod2.visualization import class_name, side_by_side

SIDE = 160  # pixels of a RoI in the picture


class PatchWatch(RelationWatch):
    """Keeps of one frame what SPFA made of the patches, too.

    Attributes, once the frame has been detected:
        boxes: (N, 4) its proposals, xyxy in pixels of the resized image of `image_size` (height, width).
        importance: (N, p) alpha of the last aggregation.
        weights: (N, p, M) w.
    """

    def __init__(self, predictor: VideoPredictor, frame: int) -> None:
        super().__init__(predictor, frame)
        self.boxes = self.importance = self.weights = None

    def _watch(self, module: nn.Module, inputs: tuple[ProposalSet, TemporalContext], output: Aggregated) -> None:
        before = self.is_done
        super()._watch(module, inputs, output)
        # The call that completes the watch is the one of this frame; later ones are of other frames.
        if self.is_done and not before:
            query, context = inputs
            self.boxes, (self.image_size,) = query.boxes.cpu(), query.image_sizes
            self.importance = module.patch_importance(query).cpu()
            self.weights = module.weights(query, context.proposals(module.support_topk)).cpu()


class Tile(NamedTuple):
    """One RoI: its image (H, W, 3) BGR, its box in pixels of that, numbers (p,) of the patches, a title."""

    image: np.ndarray
    box: Sequence[float]
    values: np.ndarray
    title: str


def patch_edges(grid: int, side: int) -> np.ndarray:
    """(grid + 1,) where the patches of a RoI of `side` cells begin and end, in [0, 1] of the RoI, without padding."""
    cells = -(-side // grid)
    # A RoI that cannot be divided evenly is padded on both sides, as `cut_patches` does.
    before = (cells * grid - side) // 2
    return np.clip((np.arange(grid + 1) * cells - before) / side, 0, 1)


def draw_patches(tile: Tile, edges: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The RoI cut out, (side, side, 3) BGR, its patches the redder the larger their number is, which is written in."""
    x1, y1, x2, y2 = tile.box
    scale = np.array([side / max(x2 - x1, 1e-3), side / max(y2 - y1, 1e-3)])
    move = np.column_stack([np.diag(scale), -scale * [x1, y1]])
    canvas = cv2.warpAffine(tile.image, move, (side, side)).astype(np.float64)
    grid, places = len(edges) - 1, np.rint(edges * side).astype(int)
    numbers = tile.values.reshape(grid, grid)
    # All may be 0 where a support resembles nothing.
    strength = numbers / max(numbers.max(), 1e-12)
    for row in range(grid):
        for column in range(grid):
            top, bottom, left, right = *places[row : row + 2], *places[column : column + 2]
            patch, share = canvas[top:bottom, left:right], 0.6 * strength[row, column]
            patch[:] = (1 - share) * patch + share * np.array([0, 0, 255])
    canvas = canvas.round().astype(np.uint8)
    for place in places[1:-1].tolist():
        cv2.line(canvas, (place, 0), (place, side), (255, 255, 255))
        cv2.line(canvas, (0, place), (side, place), (255, 255, 255))
    if grid <= 4:  # of more patches the numbers would not be legible
        for row in range(grid):
            for column in range(grid):
                corner = int(places[column]) + 4, int(places[row + 1]) - 6
                cv2.putText(canvas, f"{numbers[row, column]:.2f}", corner, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255,) * 3)
    return canvas


def rows_of(
    watch: PatchWatch, image: np.ndarray, detections: Instances, names: Sequence[str], supports: int
) -> list[list[Tile]]:
    """For each detection its RoI, then those of the `supports` supports that it took most from."""
    height, width = watch.image_size
    scale = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
    rows = []
    for row in range(len(detections)):
        proposal = int(detections.proposal_index[row])
        importance, weights = watch.importance[proposal], watch.weights[proposal]  # (p,), (p, M)
        title = f"{class_name(int(detections.pred_classes[row]), names)} {detections.scores[row]:.2f}"
        tiles = [Tile(image, (watch.boxes[proposal] * scale).tolist(), importance.numpy(), title)]
        # In the order of `supports`: by what the detection took of each in all.
        best = (importance @ weights).topk(min(supports, weights.shape[1])).indices
        for support, column in zip(watch.supports(proposal, supports), best.tolist(), strict=True):
            tiles.append(
                Tile(
                    support.image,
                    support.box,
                    weights[:, column].numpy(),
                    f"frame {support.index}: {support.weight:.1%}",
                )
            )
        rows.append(tiles)
    return rows


def picture_of(rows: Sequence[Sequence[Tile]], edges: np.ndarray) -> np.ndarray:
    """All rows below each other; shorter ones are filled with black."""
    columns, pictures = max(len(row) for row in rows), []
    for row in rows:
        blank = [np.zeros((SIDE, SIDE, 3), np.uint8)] * (columns - len(row))
        titles = [tile.title for tile in row] + [""] * len(blank)
        pictures.append(side_by_side([draw_patches(tile, edges) for tile in row] + blank, titles))
    return np.concatenate(pictures)


def require_patches(cfg: CfgNode) -> None:
    """Raises UserError unless the configuration compares patches."""
    name, patches = cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME, cfg.MODEL.CSMN.SPFA.PATCHES
    if name != "SPFAAggregator" or patches == 1:
        raise UserError(
            f"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME is {name!r}, MODEL.CSMN.SPFA.PATCHES {patches}: "
            "expected 'SPFAAggregator' with more than one patch, such as configs/CSMN_R101.yaml"
        )


def detect(predictor: VideoPredictor, source: VideoReader, frame: int) -> tuple[PatchWatch, np.ndarray, Instances]:
    """What was seen of the frame, its image, and its detections.

    Raises:
        UserError: if the video has no such frame.
    """
    watch = PatchWatch(predictor, frame)
    try:
        for detected_frame in predictor.stream(watch.frames(source.with_gaps())):
            if detected_frame.index == frame and watch.is_done:
                return watch, detected_frame.image, detected_frame.output["instances"].to("cpu")
    finally:
        watch.close()
    raise UserError(f"--frame {frame}: the video has no such frame, or it could not be read")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML file of the model")
    parser.add_argument("--video-input", required=True, metavar="PATH", help="a video file, or a folder of images")
    parser.add_argument("--frame", type=int, required=True, metavar="N", help="the frame, from 0")
    parser.add_argument("--output", type=Path, default=Path("patches.png"), metavar="FILE", help="the picture")
    parser.add_argument("--detections", type=int, default=3, metavar="N", help="rows: the surest N (default 3)")
    parser.add_argument("--supports", type=int, default=5, metavar="N", help="support RoIs of a row (default 5)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args()
    for name in ("frame", "detections", "supports"):
        if getattr(args, name) < (0 if name == "frame" else 1):
            parser.error(f"--{name} {getattr(args, name)}: expected at least {0 if name == 'frame' else 1}")
    # Last, as the watch needs the relations whatever --opts says.
    cfg = load_config(args.config_file, [*args.opts, "MODEL.VIDEO.KEEP_RELATIONS", "True"])
    require_patches(cfg)
    refuse_inputs("--output", [args.output], [args.config_file, args.video_input, cfg.MODEL.WEIGHTS])
    require_weights(cfg.MODEL.WEIGHTS)
    watch, image, detections = detect(VideoPredictor(cfg), VideoReader(args.video_input), args.frame)
    best = detections.scores.argsort(descending=True)[: args.detections]
    if len(best) == 0:
        raise UserError(f"nothing was detected in frame {args.frame}: choose another one")
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
    names = list(getattr(metadata, "thing_classes", []))
    edges = patch_edges(int(watch.importance.shape[1] ** 0.5), cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)
    picture = picture_of(rows_of(watch, image, detections[best], names, args.supports), edges)
    write_image(args.output, picture)
    print(args.output)


if __name__ == "__main__":
    cli.run(main)
