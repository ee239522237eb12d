"""Link detections over time: of a video, whatever program made them, or of an evaluation, which is evaluated again.

    vod2 link found.json --output linked.json --video in.mp4 --fill-gaps 5
    vod2 link output/RDN_R101/inference/imagenet_vid_val/detections.npz \\
        --dataset imagenet_vid_val --linker SeqNMS --output output/linked --opts LINK_IOU 0.6

Without --dataset, DETECTIONS are those of one video: COCO results whose image_id are numbers of frames, MOTChallenge
text, or JSON or JSON lines with boxes (xyxy), scores and labels of each frame. --output is a file in the same format
(or that of its suffix) with tracks and new scores; with --fill-gaps N a track that is missing in at most N frames gets
interpolated boxes there, marked "filled". What linking did to flicker, delay, gaps and coverage of the tracks is
printed: see docs/linking.md.

With --dataset, DETECTIONS are the detections.npz that VIDEvaluator writes, or a .json of results in COCO's format
(image_id, category_id from 0, bbox x y width height, score). Prints AP before and after; of the linked boxes HOTA, IDF1
and MOTA, too, if objects have track_id and the extra "mot" is installed (docs/evaluation.md). --output is a folder that
gets what VIDEvaluator writes of the linked boxes; its detections.npz also has `track_ids` (n,), which count from 0 in
each video.

Settings (--opts) are those of MODEL.VIDEO.LINKER. repp-like (GreedyLinking), tubelets (TubeletLinking) and BLR want
boxes after non-maximum suppression, seqnms (SeqNMS) those before it: evaluate with MODEL.ROI_HEADS.NMS_THRESH_TEST 1.0
and TEST.DETECTIONS_PER_IMAGE -1. BLR reads the relations.npz beside DETECTIONS, which an evaluation with
MODEL.VIDEO.KEEP_RELATIONS True writes.
"""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from vod2.bounded import load_json, read_npz
from vod2.commands.link_file import link_file
from vod2.commands.parsing import command_parser
from vod2.d2 import BoxMode, CfgNode, DatasetCatalog, Instances, MetadataCatalog
from vod2.data import as_video_dicts
from vod2.data.clips.build import in_stream_order
from vod2.detections import LINKERS
from vod2.engine import cli, load_config
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.evaluation import RELATIONS_FILE, UAVDTEvaluator, VIDEvaluator, read_relations
from vod2.evaluation.detection_files import FORMATS
from vod2.evaluation.mot_metrics import check_mot
from vod2.evaluation.relations import Relations
from vod2.modeling import BLR, BOX_LINKER_REGISTRY, BoxLinker, build_box_linker
from vod2.structures import PreciseBoxes

_COLUMNS = ("image", "boxes", "scores", "labels")


def read_results(path: Path) -> dict[str, np.ndarray]:
    """`image_ids` (F,), and `image` (n,) rows of them, `boxes` (n, 4) xyxy, `scores` (n,), `labels` (n,).

    Raises:
        UserError: if there is no such file, or it holds something else.
    """
    try:
        if path.suffix == ".json":
            return _whole(_from_coco(load_json(path.read_text(encoding="utf-8"))))
        arrays = read_npz(path)
        return _whole({name: arrays[name] for name in ("image_ids", *_COLUMNS)})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}): expected the detections.npz of an evaluation") from error
    except (AssertionError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no detections ({error}): expected the detections.npz or COCO results .json of an evaluation"
        ) from error


def _whole(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, unless their shapes or types are not those of `read_results`, or an image is none: a ValueError."""
    count, frames = results["image"].size, results["image_ids"].size
    shapes = {"image_ids": (frames,), "image": (count,), "boxes": (count, 4), "scores": (count,), "labels": (count,)}
    for name, shape in shapes.items():
        kinds = "iuU" if name == "image_ids" else "iu" if name in ("image", "labels") else "f"
        if results[name].shape != shape or results[name].dtype.kind not in kinds:
            raise ValueError(f"{name} is {results[name].dtype} {results[name].shape}, expected {shape}")
    if count and not (0 <= results["image"].min() and results["image"].max() < frames and results["labels"].min() >= 0):
        raise ValueError(f"an image beyond the {frames} of image_ids, or a negative number")
    if not all(np.isfinite(results[name]).all() for name in ("boxes", "scores")):
        raise ValueError("boxes or scores are not finite")
    return results


def _from_coco(entries: list[dict]) -> dict[str, np.ndarray]:
    ids = np.array([str(entry["image_id"]) for entry in entries], dtype=str)
    image_ids, image = np.unique(ids, return_inverse=True)
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float32).reshape(-1, 4)
    return {
        "image_ids": image_ids,
        "image": image,
        "boxes": BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        "scores": np.array([entry["score"] for entry in entries], dtype=np.float32),
        "labels": np.array([entry["category_id"] for entry in entries], dtype=np.int64),
    }


def by_frame(
    results: dict[str, np.ndarray], records: Sequence[dict], source: Path, relations: Relations | None = None
) -> list[Instances]:
    """The detections of each record of the dataset, none where the results have none; with their relations, if given.

    Raises:
        UserError: if the results have frames that the dataset has not, or the relations are of other detections.
    """
    in_dataset = {str(record["image_id"]) for record in records}
    # As text: ids in the dataset may be numbers, those of a file need not be.
    row_of_image = {}  # {image_id: its row in the results}
    for row, image_id in enumerate(results["image_ids"].tolist()):
        if str(image_id) not in in_dataset:
            raise UserError(
                f"{source}: image_id {image_id!r} is not in the dataset: is --dataset the one it was made of?"
            )
        row_of_image[str(image_id)] = row
    # Sorted by frame, those of each frame lie in one slice.
    order = np.argsort(results["image"], kind="stable")
    image, boxes, scores, labels = (results[name][order] for name in _COLUMNS)
    frames = []
    for record in records:
        row = row_of_image.get(str(record["image_id"]), -1)  # nothing is of frame -1
        part = slice(*np.searchsorted(image, [row, row + 1]))
        size = record["height"], record["width"]
        detections = Instances(size, pred_boxes=PreciseBoxes(torch.from_numpy(boxes[part])))
        detections.scores = torch.from_numpy(scores[part])
        detections.pred_classes = torch.from_numpy(labels[part].astype(np.int64))
        if relations is not None and len(detections):
            _attach(detections, relations.get(str(record["image_id"])), source)
        frames.append(detections)
    return frames


def _attach(detections: Instances, relation: tuple[np.ndarray, np.ndarray] | None, source: Path) -> None:
    if relation is None or len(relation[0]) != len(detections):
        raise UserError(f"{source} and the {RELATIONS_FILE} beside it are not of one evaluation: evaluate again")
    detections.proposal_index = torch.from_numpy(relation[0].astype(np.int64))
    detections.next_relation = torch.from_numpy(relation[1].astype(np.float32))


def link_videos(linker: BoxLinker, records: Sequence[dict], frames: Sequence[Instances]) -> list[Instances]:
    """Link each video by itself; the records are in the order of a stream."""
    linked = []
    for _, video in groupby(zip(records, frames, strict=True), key=lambda pair: pair[0]["video_id"]):
        # groupby needs the records of a video next to each other, which the order of a stream gives.
        linked += linker.link([frame for _, frame in video])
    return linked


def evaluate(
    cfg: CfgNode, dataset: str, records: Sequence[dict], frames: Sequence[Instances], output: Path | None
) -> dict[str, float]:
    """The metrics of one set of detections: {name: percent}."""
    evaluator: UAVDTEvaluator | VIDEvaluator
    if MetadataCatalog.get(dataset).get("evaluator_type") == "uavdt":
        evaluator = UAVDTEvaluator(dataset, output, distributed=False)
    else:
        evaluator = VIDEvaluator.from_config(cfg, dataset, output, distributed=False)
    evaluator.reset()
    for record, instances in zip(records, frames, strict=True):
        evaluator.process([record], [{"instances": instances}])
    (metrics,) = evaluator.evaluate().values()
    return metrics


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_register_option(parser)
    parser.add_argument("results", metavar="DETECTIONS", type=Path, help="the file of detections")
    parser.add_argument("--dataset", metavar="NAME", help="the registered dataset that they are an evaluation of")
    registered = sorted(name for name, _ in BOX_LINKER_REGISTRY)
    parser.add_argument(
        "--linker",
        choices=[*LINKERS, *registered],
        metavar="NAME",
        help=f"{', '.join(LINKERS)}, or a registered one: {', '.join(registered)} (default: that of --config-file, or "
        "repp-like without --dataset)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="the file, or with --dataset the folder")
    parser.add_argument("--config-file", default="", metavar="FILE", help="a configuration, for what is not said here")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="of MODEL.VIDEO.LINKER, such as LINK_IOU 0.6"
    )
    video = parser.add_argument_group("detections of a video, without --dataset")
    video.add_argument(
        "--video", metavar="PATH", help="the video, which says how many frames there are, and their size"
    )
    video.add_argument(
        "--fill-gaps", type=int, default=0, metavar="N", help="fill gaps of at most N frames in a track (default 0)"
    )
    video.add_argument(
        "--first-frame",
        type=int,
        metavar="N",
        help="number of the first frame in the file (default: 1 in .txt, or else 0)",
    )
    video.add_argument("--fps", type=float, help="frames per second without --video (default: the file's, or 25)")
    video.add_argument("--class-names", metavar="FILE", help="names of the classes, for JSON: see vod2 detect --help")
    video.add_argument("--format", choices=sorted(FORMATS), help="of --output (default: by its suffix, or the input's)")
    return parser


_VIDEO_OPTIONS = ("video", "fill_gaps", "first_frame", "fps", "class_names", "format")


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    for option in _VIDEO_OPTIONS if args.dataset else ():
        if getattr(args, option) != parser.get_default(option):
            parser.error(f"--{option.replace('_', '-')} is for the detections of a video: give it without --dataset")
    if len(args.opts) % 2:
        raise UserError(f"{args.opts[-1]!r} has no value: expected KEY VALUE pairs such as LINK_IOU 0.6")
    # Every second word is a value.
    settings = [word if k % 2 else f"MODEL.VIDEO.LINKER.{word}" for k, word in enumerate(args.opts)]
    cfg = load_config(args.config_file, settings)
    name = args.linker or cfg.MODEL.VIDEO.LINKER.NAME or ("" if args.dataset else "repp-like")
    if not name:
        parser.error("give --linker, or a --config-file with MODEL.VIDEO.LINKER.NAME")
    cfg.MODEL.VIDEO.LINKER.NAME = LINKERS[name].__name__ if name in LINKERS else name
    linker = build_box_linker(cfg)
    assert linker is not None  # it has a name
    if args.dataset is None:
        link_file(args, linker)
        return
    link_evaluation(args, cfg, linker)


def link_evaluation(args: argparse.Namespace, cfg: CfgNode, linker: BoxLinker) -> None:
    """Link the detections of an evaluation, and evaluate them again."""
    if args.output:
        # Everything of an evaluation has the same names there: the folder of the results is none to write into.
        refuse_inputs("--output", [args.output / args.results.name], [args.results])
    results = read_results(args.results)
    cli.require_dataset(args.dataset)
    check_mot(cfg, is_linked=True)
    records = in_stream_order(as_video_dicts(DatasetCatalog.get(args.dataset)))
    relations = read_relations(args.results.parent / RELATIONS_FILE) if isinstance(linker, BLR) else None
    frames = by_frame(results, records, args.results, relations)
    # The results' own AP, evaluated by the same code and settings as what is linked.
    before = evaluate(cfg, args.dataset, records, frames, None)
    linked = link_videos(linker, records, frames)
    after = evaluate(cfg, args.dataset, records, linked, args.output)
    width = max(len(name) for name in after)
    print(f"{'':{width}}  {'before':>7}  {'after':>7}")
    for name, value in after.items():
        if np.isnan(value):  # a class without ground truth
            continue
        # What says whether identities are kept needs tracks, which only linking gives.
        said = f"{before[name]:7.2f}" if name in before else f"{'-':>7}"
        print(f"{name:{width}}  {said}  {value:7.2f}")
    if args.output:
        print(f"Wrote {args.output}")
