"""The evaluations that are compared: reading what they left, and refusing those that cannot be compared.

Shape alphabet: F frames, n detections, V videos, G groups, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vod2.bounded import load_json, read_npz
from vod2.errors import UserError
from vod2.evaluation.arrays import Detections, GroundTruth, pool_classes, take_rows
from vod2.evaluation.bootstrap import Tally, tally_class
from vod2.evaluation.collect import DETECTIONS_FILE
from vod2.evaluation.evaluated import TRUTH_FILE, EvaluatedDataset, read_evaluated_dataset
from vod2.evaluation.groups import entries_of_empty_frames, ignored_by_objects
from vod2.evaluation.matching import get_protocol, rank_detections
from vod2.evaluation.stability import follow_tracks, stability_measures

RESULTS_FILE = "results.json"
"""All metrics of an evaluation, in its folder."""


class Run(NamedTuple):
    """One evaluation.

    Attributes:
        folder: where it was read from.
        data: what its detections are held against.
        detections: those that count; `image` is a row of `data.image_ids`.
        evaluated: (F,) bool: the frame was processed.
    """

    folder: Path
    data: EvaluatedDataset
    detections: Detections
    evaluated: np.ndarray


class RunTally(NamedTuple):
    """All that the metrics of any resample of a run's videos are made from.

    Attributes:
        groups: K tallies of "all" and of each group.
        any_class: of all classes as one.
        track_sums: by the name of the measure its sum (V,) over the tracks of each video.
        track_count: (V,) tracks.
    """

    groups: dict[str, list[Tally]]
    any_class: Tally
    track_sums: dict[str, np.ndarray]
    track_count: np.ndarray


def find_results(folder: Path) -> Path:
    """The folder with detections.npz: this one, or the only inference/<dataset> below it.

    Raises:
        UserError: there is none, or more than one.
    """
    if (folder / DETECTIONS_FILE).is_file():
        return folder
    below = sorted(path.parent for path in folder.glob(f"inference/*/{DETECTIONS_FILE}"))
    if len(below) == 1:
        return below[0]
    if below:
        raise UserError(f"{folder} holds results of {len(below)} datasets: give one of {', '.join(map(str, below))}")
    raise UserError(
        f"{folder} holds no {DETECTIONS_FILE}: give the folder that an evaluation wrote, OUTPUT_DIR/inference/<dataset>"
    )


def name_of_results(folder: Path) -> str:
    """What the method of a folder with results is called: of OUTPUT_DIR/inference/<dataset> as OUTPUT_DIR is, of other
    folders as they are.

    Example:
        >>> name_of_results(Path("output/RDN/inference/synthetic_val")), name_of_results(Path("output/mine"))
        ('RDN', 'mine')
    """
    # "." has no name of its own.
    folder = folder.resolve()
    return folder.parents[1].name if folder.parent.name == "inference" else folder.name


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics of `VIDEvaluator` in the folder of an evaluation.

    Raises:
        UserError: results.json is missing or broken, or is of another evaluator; names it.
    """
    path = folder / RESULTS_FILE
    try:
        results = load_json(path.read_text(encoding="utf-8"))
        found = sorted(results)
        metrics = results.get("vid")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} holds no metrics of an evaluation ({error}): evaluate again") from error
    if not isinstance(metrics, dict):
        raise UserError(
            f"{path} holds {', '.join(found) or 'nothing'}, expected the metrics vid: the dataset needs evaluator_type "
            '"vid" in its metadata (UAVDT and VisDrone have their own evaluation)'
        )
    return metrics


def read_run(folder: Path, data: EvaluatedDataset | None = None) -> Run:
    """Read an evaluation.

    Args:
        folder: see `find_results`.
        data: takes the place of the truth.npz in the folder.

    Raises:
        UserError: a file is missing, damaged or too old, or the detections are of other frames than `data`.
    """
    folder = find_results(folder)
    path = folder / DETECTIONS_FILE
    try:
        arrays = read_npz(path)
        image, boxes, scores, labels = (arrays[name] for name in ("image", "boxes", "scores", "labels"))
        detections = Detections(image, boxes, scores, labels, arrays.get("track_ids"))
        image_ids = arrays["image_ids"].tolist()
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise UserError(f"{path} holds no detections ({error}): evaluate again") from error
    is_registered = data is not None
    if data is None:
        data = read_evaluated_dataset(folder / TRUTH_FILE)
    # As text, which an array makes of numbers that stand beside texts.
    if [str(image_id) for image_id in image_ids] != [str(image_id) for image_id in data.image_ids]:
        source = f"the dataset {data.name!r}" if is_registered else folder / TRUTH_FILE
        raise UserError(f"{path} and {source} differ in their frames: they are not of one evaluation")
    if "evaluated" not in arrays and not is_registered:
        raise UserError(
            f"{path} does not say which frames were evaluated, it is by an older version: evaluate again, or name the "
            "registered dataset (--dataset), of which all frames are then taken to be evaluated"
        )
    evaluated = arrays.get("evaluated", np.ones(len(image_ids), dtype=bool))
    # UAVDT's evaluation drops what lies in ignored regions before it matches.
    if "ignored" in arrays:
        detections = take_rows(detections, ~arrays["ignored"])
    # A dataset that was named may have fewer classes than the one that was evaluated.
    if detections.labels.max(initial=-1) >= len(data.class_names):
        raise UserError(f"{path} holds labels beyond the {len(data.class_names)} classes of the dataset {data.name!r}")
    return Run(folder, data, detections, evaluated)


def refuse_differences(runs: Sequence[Run]) -> None:
    """Make sure that all runs are evaluations of the same frames against the same ground truth by the same rule.

    Raises:
        UserError: otherwise; names the two folders and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        if difference := _difference(first, run):
            raise UserError(
                f"{first.folder} and {run.folder} cannot be compared, they differ in {difference}: evaluate both on "
                "the same dataset with the same settings"
            )


def _difference(first: Run, second: Run) -> str | None:
    a, b = first.data, second.data
    for setting, left, right in (
        ("the dataset", a.name, b.name),
        ("the classes", a.class_names, b.class_names),
        ("the number of frames", len(a.image_ids), len(b.image_ids)),
        ("the rule of matching (TEST.VID_PROTOCOL)", a.protocol, b.protocol),
        ("whether frames without objects count (counts_empty_frames)", a.counts_empty_frames, b.counts_empty_frames),
        ("how groups are made (TEST.VID_GROUPS)", a.groups_by, b.groups_by),
        ("the groups", list(a.groups), list(b.groups)),
    ):
        if left != right:
            return f"{setting} ({left!r}, {right!r})"
    # From here on each comparison relies on those before it: rows stand for the same frames.
    if a.image_ids != b.image_ids:
        ids = zip(a.image_ids, b.image_ids, strict=True)
        at = next(row for row, (left, right) in enumerate(ids) if left != right)
        return f"their frames (frame {at} of the dataset is {a.image_ids[at]!r}, {b.image_ids[at]!r})"
    if not np.array_equal(first.evaluated, second.evaluated):
        at = int(np.flatnonzero(first.evaluated != second.evaluated)[0])
        which = "first" if first.evaluated[at] else "second"
        counts = f"{first.evaluated.sum()}, {second.evaluated.sum()}"
        return f"the frames that were evaluated ({counts}; {a.image_ids[at]!r} only in the {which})"
    pairs = [(vars(a.truth)[name], vars(b.truth)[name]) for name in vars(a.truth)]
    pairs += [(a.video, b.video), *zip(a.tracks, b.tracks, strict=True)]
    if not all(np.array_equal(left, right) for left, right in pairs):
        return f"the annotations ({len(a.truth)} and {len(b.truth)} objects)"
    for name in a.groups:
        if not all(_are_equal(left, right) for left, right in zip(a.groups[name], b.groups[name], strict=True)):
            return f"the frames or objects of the group {name!r}"
    return None


def _are_equal(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    if left is None or right is None:
        return left is right
    return np.array_equal(left, right)


def tally_run(run: Run) -> RunTally:
    """Match and rank once, for all classes and groups. As in an evaluation, frames without a detection, also those that
    were not processed, count with all of their objects missed."""
    data, detections, truth = run.data, run.detections, run.data.truth
    names, ignore = ignored_by_objects(truth, data.groups)
    empty = np.bincount(data.video[data.empty_frames], minlength=data.num_videos)
    entries = np.outer(entries_of_empty_frames(names), empty)
    groups = dict(zip(names, _tally(data, detections, truth, ignore, entries), strict=True))
    for name, group in data.groups.items():
        if group.frames is not None:
            rows = group.frames[truth.image]
            group_detections = take_rows(detections, group.frames[detections.image])
            # Without the entries of empty frames: the table of motions has them for groups of objects only.
            (groups[name],) = _tally(data, group_detections, take_rows(truth, rows), truth.ignore[None, rows])
    # One choice of what to ignore and one class: a single tally.
    pooled = _tally(data, pool_classes(detections), pool_classes(truth), truth.ignore[None])
    followed = follow_tracks(detections, truth, data.tracks)
    track_video = _video_of_tracks(data)[followed.number]
    sums = {
        name: np.bincount(track_video, values, minlength=data.num_videos)
        for name, values in stability_measures(followed.stability).items()
    }
    count = np.bincount(track_video, minlength=data.num_videos)
    # In the order of the report, with "all" first.
    return RunTally({name: groups[name] for name in ("all", *data.groups)}, pooled[0][0], sums, count)


def _tally(
    data: EvaluatedDataset,
    detections: Detections,
    truth: GroundTruth,
    ignore: np.ndarray,
    entries: np.ndarray | None = None,
) -> list[list[Tally]]:
    """G lists of K tallies, for ignore (G, m) of this ground truth and the entries (G, V) of frames without objects."""
    video = data.video[truth.image]
    # By video, because a resample weighs each video by itself.
    all_objects = np.bincount(video, minlength=data.num_videos)
    annotated = np.empty((len(ignore), 2, data.num_videos), dtype=all_objects.dtype)  # objects that count, and all
    for row, ignored in enumerate(ignore):
        annotated[row, 0] = np.bincount(video[~ignored], minlength=data.num_videos)
    annotated[:, 1] = all_objects
    if entries is not None:
        annotated[:, 0] += entries
        annotated[:, 1] += entries[0]  # "all" has all of them
    protocol = get_protocol(data.protocol)
    tallies_of_classes = []  # of each, G tallies; arrays of one class at a time
    for ranked in rank_detections(detections, truth, len(data.class_names), protocol, ignore):
        tallies_of_classes.append(tally_class(ranked, data.video, data.num_videos, annotated))
    return [list(group_tallies) for group_tallies in zip(*tallies_of_classes, strict=True)]


def _video_of_tracks(data: EvaluatedDataset) -> np.ndarray:
    """The video of each number of a track."""
    has_track = data.tracks.track >= 0
    video = np.zeros(int(data.tracks.track.max(initial=-1)) + 1, dtype=np.int64)
    video[data.tracks.track[has_track]] = data.video[data.truth.image[has_track]]
    return video
