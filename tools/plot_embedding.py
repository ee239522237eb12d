#!/usr/bin/env python3
"""Proposals by class in the plane, before and after they take from other frames (figure 5 of HVR-Net).

    python tools/plot_embedding.py --config-file configs/quick/HVRNet.yaml \\
        --weights output/quick/HVRNet/model_final.safetensors

A point is the feature of a proposal that shows an object (IoU of at least .5), in the colour of its class: on the left
as the box head embeds it, on the right as the proposal aggregator leaves it. Of each class --per-class proposals are
drawn at random from all frames of --videos videos; the same ones on both sides. Features come to the plane by t-SNE,
each side by itself, where scikit-learn is installed (pip install "vod2[embedding]"), else by their two principal
components. The picture goes to --output, the numbers beside it, to a file whose name ends in .npz. Printed is, for both
sides, how often the nearest proposal of another video is of the same class, which needs no plane; classes that one
video alone shows do not count in it.
"""

import argparse
import contextlib
import heapq
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from vod2.atomic import replacing
from vod2.checkpoint import require_weights
from vod2.d2 import BoxMode, CfgNode, DatasetCatalog, MetadataCatalog
from vod2.data import VideoIndex
from vod2.data.clips.build import in_stream_order
from vod2.data.clips.contexts import build_test_mapper
from vod2.data.datasets.video_index import as_video_dicts
from vod2.engine import VideoPredictor, cli, load_config
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.evaluation import StreamingModel
from vod2.modeling import VideoDetector
from vod2.structures import ProposalSet
from vod2.temporal import build_support_schedule
from vod2.visualization import class_color, class_name

MIN_IOU = 0.5
MAX_COMPONENTS = 50  # that t-SNE is given, as its authors do
PERPLEXITY = 30.0
PROJECTIONS = {"tsne": "t-SNE", "pca": "principal components"}


class Proposal(NamedTuple):
    """A proposal that shows an object: D features before and after aggregation, box xyxy in original pixels."""

    before: np.ndarray
    after: np.ndarray
    label: int
    video: str
    image_id: str
    box: np.ndarray


class ClassSample:
    """Draws at most `per_class` proposals of each class, of all that come with equal chance, in one pass.

    Example:
        >>> sample = ClassSample(2, np.random.default_rng(0))
        >>> proposal = Proposal(np.zeros(3), np.zeros(3), 4, "v", "v/0", np.zeros(4))
        >>> for _ in range(5):
        ...     sample.add(proposal)
        >>> len(sample.drawn())
        2
    """

    def __init__(self, per_class: int, generator: np.random.Generator) -> None:
        self._per_class, self._generator = per_class, generator
        self._kept: dict[int, list[tuple[float, int, Proposal]]] = {}
        self._count = 0

    def add(self, proposal: Proposal) -> None:
        """One more proposal: it stays if the number that it draws is among the highest of its class."""
        kept = self._kept.setdefault(proposal.label, [])
        # The count decides between equal numbers, as proposals cannot be compared.
        heapq.heappush(kept, (self._generator.random(), self._count, proposal))
        self._count += 1
        if len(kept) > self._per_class:
            heapq.heappop(kept)

    def drawn(self) -> list[Proposal]:
        """Class after class, those of each in the order in which they came."""
        proposals = []
        for label in sorted(self._kept):
            in_order = sorted(self._kept[label], key=lambda entry: entry[1])
            proposals += [proposal for _, _, proposal in in_order]
        return proposals


@contextlib.contextmanager
def watch_proposals(model: VideoDetector) -> Iterator[list[tuple[ProposalSet, Tensor]]]:
    """A list that holds, after each step, the key frame's proposals and their aggregated features (N, D)."""
    heads, latest = model.roi_heads, []
    aggregate = heads.aggregate

    def watch(clips):
        aggregated = aggregate(clips)
        latest[:] = [(clips[0].key.proposals, aggregated[0].value)]
        return aggregated

    # An attribute of the instance hides the method of its class.
    heads.aggregate = watch
    try:
        yield latest
    finally:
        del heads.aggregate  # the method of the class is there again


def shown_objects(boxes: Tensor, record: dict) -> tuple[Tensor, Tensor]:
    """The rows of boxes (N, 4) xyxy in original pixels that show an annotated object, and its labels, both (r,)."""
    notes = [note for note in record.get("annotations", ()) if not note.get("iscrowd", 0)]
    if not notes or not len(boxes):
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    objects = [BoxMode.convert(list(note["bbox"]), note["bbox_mode"], BoxMode.XYXY_ABS) for note in notes]
    iou, nearest = box_iou(boxes.double(), torch.tensor(objects, dtype=torch.float64)).max(dim=1)
    rows = (iou >= MIN_IOU).nonzero()[:, 0]
    return rows, torch.tensor([note["category_id"] for note in notes])[nearest[rows]]


def frames_of_videos(dataset: str, videos: int, generator: np.random.Generator) -> list[dict]:
    """The dicts of at most `videos` videos that are drawn, in the order of a stream.

    Raises:
        UserError: the dataset is not registered.
    """
    cli.require_dataset(dataset)
    dicts = as_video_dicts(DatasetCatalog.get(dataset))
    # Sorted, so that what the seed draws does not depend on the order of a set.
    names = sorted({record["video_id"] for record in dicts})
    if len(names) > videos:
        names = generator.choice(names, videos, replace=False).tolist()
    chosen = set(names)
    return in_stream_order([record for record in dicts if record["video_id"] in chosen])


def only_classes(dicts: Sequence[dict], chosen: Sequence[str], names: Sequence[str]) -> list[dict]:
    """The dicts with the annotations of the chosen classes alone.

    Raises:
        UserError: the dataset has no class of such a name.
    """
    if unknown := [name for name in chosen if name not in names]:
        raise UserError(f"--classes {' '.join(unknown)}: expected some of {', '.join(names)}")
    labels = {names.index(name) for name in chosen}
    kept = []
    for record in dicts:
        annotations = [note for note in record.get("annotations", ()) if note["category_id"] in labels]
        kept.append(record | {"annotations": annotations})
    return kept


def collect(
    cfg: CfgNode, model: VideoDetector, dicts: Sequence[dict], per_class: int, generator: np.random.Generator
) -> list[Proposal]:
    """Stream the videos, and draw from the proposals that show an object.

    Raises:
        UserError: the model has no proposal aggregator, or no proposal shows an object.
    """
    if model.roi_heads.aggregator is None:
        raise UserError(
            "the model has no proposal aggregator (MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME is empty): features are the "
            "same before and after"
        )
    index = VideoIndex(dicts)
    mapper = build_test_mapper(cfg, dicts, index)
    stream, sample = StreamingModel(model, build_support_schedule(cfg)), ClassSample(per_class, generator)
    with watch_proposals(model) as latest, torch.no_grad():
        for record in tqdm(dicts, unit="frame"):
            stream([mapper(dict(record))])
            ((proposals, after),) = latest
            for proposal in _proposals_of_frame(record, proposals, after):
                sample.add(proposal)
    sampled = sample.drawn()
    if len(sampled) < 3:
        raise UserError(f"{len(sampled)} proposals show an annotated object: expected at least 3, to draw them")
    return sampled


def _proposals_of_frame(record: dict, proposals: ProposalSet, after: Tensor) -> Iterator[Proposal]:
    ((height, width),) = proposals.image_sizes
    # Proposals are in pixels of the resized image, annotations in those of the file.
    scale = torch.tensor([record["width"] / width, record["height"] / height] * 2, dtype=torch.float64)
    boxes = proposals.boxes.cpu().double() * scale
    rows, labels = shown_objects(boxes, record)
    before, after = (part[rows.to(part.device)].float().cpu().numpy() for part in (proposals.features, after))
    origin = record["video_id"], str(record["image_id"])
    for place, label in enumerate(labels.tolist()):
        yield Proposal(before[place], after[place], label, *origin, boxes[rows[place]].numpy())


def project(features: np.ndarray, projection: str, seed: int) -> np.ndarray:
    """Features (S, D) -> places (S, 2), by "tsne" or "pca"."""
    if projection == "pca":
        return principal_components(features, 2)
    # An optional package, which principal components do without.
    from sklearn.manifold import TSNE

    # scikit-learn refuses a perplexity that is not below the number of points.
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # t-SNE compares all pairs: fewer dimensions cost little of the distances and save most of the time.
    reduced = principal_components(features, MAX_COMPONENTS)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """The first components of features (S, D): (S, min(count, S, D)) float64, each of which has its largest loading
    positive."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    vectors, size, loadings = np.linalg.svd(centred, full_matrices=False)
    # An SVD leaves the sign of a component open; this choice makes the picture the same everywhere.
    signs = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    return (vectors * size * signs)[:, :count]


def choose_projection(projection: str | None) -> str:
    """What is asked for, by default t-SNE where it can be had.

    Raises:
        UserError: t-SNE is asked for and scikit-learn is not installed.
    """
    has_tsne = importlib.util.find_spec("sklearn") is not None
    if projection == "tsne" and not has_tsne:
        raise UserError('--projection tsne needs scikit-learn: pip install "vod2[embedding]"')
    if projection is None and not has_tsne:
        print('scikit-learn is not installed (pip install "vod2[embedding]"): principal components instead of t-SNE')
    return projection or ("tsne" if has_tsne else "pca")


def same_class_share(features: np.ndarray, labels: np.ndarray, videos: Sequence[str]) -> float:
    """The share of proposals (S, D) whose nearest one of another video has their label (S,).

    Of classes that several videos show; NaN where there is none.
    """
    points, names = torch.from_numpy(features).double(), np.array(videos)
    distance = torch.cdist(points, points).numpy()
    other_video = names[:, None] != names
    # Frames of one video show an object almost alike, which says nothing about classes.
    distance[~other_video] = np.inf
    has_partner = (other_video & (labels[:, None] == labels)).any(axis=1)
    if not has_partner.any():
        return float("nan")
    return float((labels[distance.argmin(axis=1)] == labels)[has_partner].mean())


def embedding_figure(
    places: Sequence[np.ndarray], shares: Sequence[float], labels: np.ndarray, names: Sequence[str], projection: str
) -> Figure:
    """Both sides: places (S, 2) each, labels (S,)."""
    figure = Figure(figsize=(14, 6.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, title, points, share in zip(panels, ("before", "after"), places, shares, strict=True):
        for order, label in enumerate(np.unique(labels).tolist()):
            color = np.array(class_color(label)[::-1]) / 255
            x, y = points[labels == label].T
            name = f"{class_name(label, names)} ({len(x)})"
            panel.scatter(x, y, s=14, color=color, marker="osD^v"[order % 5], label=name, linewidths=0)
        nearest = "" if np.isnan(share) else f"; nearest of another video of the same class: {share:.0%}"
        panel.set(title=f"{title} aggregation{nearest}", xticks=[], yticks=[])
    panels[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), markerscale=2)
    figure.supxlabel(PROJECTIONS[projection], fontsize="medium")
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="that the weights were trained with")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint of it")
    parser.add_argument("--dataset", metavar="NAME", help="a registered dataset (default: the first of DATASETS.TEST)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="classes of the dataset (default: all)")
    parser.add_argument("--per-class", type=int, default=100, metavar="N", help="proposals of a class, at most (100)")
    parser.add_argument("--videos", type=int, default=50, metavar="N", help="videos that are looked at, at most (50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn, and of t-SNE (0)")
    parser.add_argument(
        "--projection", choices=PROJECTIONS, help="default: tsne if scikit-learn is installed, else pca"
    )
    parser.add_argument("--output", type=Path, default=Path("embedding.png"), metavar="FILE", help="the picture")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    return parser


def write(output: Path, figure: Figure, proposals: Sequence[Proposal], **others: object) -> None:
    """The picture, and beside it an npz of the proposals, an array for each field of `Proposal`, and of `others`."""
    numbers = output.with_suffix(".npz")
    with replacing(numbers) as path:
        columns = {}
        for name in Proposal._fields:
            columns[name] = np.array([getattr(proposal, name) for proposal in proposals])
        np.savez_compressed(path, **columns, **others)
    with replacing(output) as path:
        figure.savefig(path, dpi=100, format="png")
    print(f"Wrote {output} and {numbers}")


def main() -> None:
    parser = _parser()
    args = parser.parse_args()
    for name, least in (("per_class", 1), ("videos", 1), ("seed", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least {least}")
    if args.output.suffix.lower() != ".png":
        parser.error(f"--output {args.output}: expected a name that ends in .png")
    refuse_inputs("--output", [args.output, args.output.with_suffix(".npz")], [args.config_file, args.weights])
    projection = choose_projection(args.projection)
    cfg = load_config(args.config_file, ["MODEL.WEIGHTS", args.weights, *args.opts, "TEST.CONTEXT", "own"])
    require_weights(cfg.MODEL.WEIGHTS)
    dataset, generator = args.dataset or cfg.DATASETS.TEST[0], np.random.default_rng(args.seed)
    dicts = frames_of_videos(dataset, args.videos, generator)
    names = list(getattr(MetadataCatalog.get(dataset), "thing_classes", []))
    if args.classes:
        dicts = only_classes(dicts, args.classes, names)
    proposals = collect(cfg, VideoPredictor(cfg).model, dicts, args.per_class, generator)
    labels = np.array([proposal.label for proposal in proposals])
    videos = [proposal.video for proposal in proposals]
    before = np.array([proposal.before for proposal in proposals])
    after = np.array([proposal.after for proposal in proposals])
    shares, places = [], []
    for title, features in (("before", before), ("after", after)):
        share = same_class_share(features, labels, videos)
        print(f"{title}: the nearest proposal of another video is of the same class: {share:.1%}")
        shares.append(share)
        places.append(project(features, projection, args.seed))
    figure = embedding_figure(places, shares, labels, names, projection)
    numbers = {"places": np.stack(places), "same_class": np.array(shares), "class_names": np.array(names)}
    write(args.output, figure, proposals, **numbers, projection=projection, seed=args.seed)


if __name__ == "__main__":
    cli.run(main)
