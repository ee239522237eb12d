"""HOTA, IDF1 and MOTA of linked detections: do they keep the annotated identities?

What the metrics compute is done by the package `trackers` (extra `mot`), a video and a class at a time; here is what
is given to it, and what is made of its counts.

Shape alphabet: F frames, n detections, m ground truths, K classes, g and d ground truths and detections of one class
in one frame.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from vod2.d2 import CfgNode
from vod2.errors import UserError
from vod2.evaluation.arrays import Detections, GroundTruth, take_rows
from vod2.evaluation.curves import mean_average_precision
from vod2.evaluation.matching import PROTOCOLS, match_detections
from vod2.evaluation.regions import ignore_regions, is_ignored
from vod2.evaluation.stability import SCORE_THRESHOLD, TrackIndex
from vod2.modeling.linking.arrays import pairwise_iou

logger = logging.getLogger(__name__)

MOT_METRICS = {
    "HOTA": "root of DetA times AssA, the mean over IoU .05 to .95",
    "DetA": "detections and objects that match, of all of both",
    "AssA": "of a matched pair's two tracks, the frames in which both match",
    "IDF1": "detections and objects whose whole tracks match, of all of both",
    "MOTA": "100 less misses, false detections and changes of identity",
    "id-switches": "changes of the track that an object is matched to",
}
"""{measure: what it is}; all but the last in percent."""

PER_CLASS = ("HOTA", "IDF1", "MOTA")
"""Those that results have of each class, too."""


class VideoFrames(NamedTuple):
    """Where the frames of a dataset stand in their videos.

    Attributes:
        video: (F,) int64 number of the video.
        place: (F,) int64, from 0, by ascending `frame_index`.
        regions: of each frame its ignore regions (r, 4) xyxy.
    """

    video: np.ndarray
    place: np.ndarray
    regions: list[np.ndarray]

    @staticmethod
    def of(dataset: Sequence[dict], video: np.ndarray) -> "VideoFrames":
        """Those of the F dicts of a dataset, whose videos are numbered as `EvaluatedDataset` does it."""
        index = np.array([record.get("frame_index", 0) for record in dataset], dtype=np.int64)
        order = np.lexsort((index, video))
        starts = np.flatnonzero(np.diff(video[order], prepend=-1))
        place = np.empty(len(video), dtype=np.int64)
        place[order] = np.arange(len(video)) - np.repeat(starts, np.diff(starts, append=len(video)))
        return VideoFrames(video, place, ignore_regions(dataset))


def require_trackers() -> ModuleType:
    """The package's module of metrics.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("trackers.eval")
    except ImportError as error:
        raise UserError(
            f"HOTA, IDF1 and MOTA need trackers of at least 2.3, which does not import ({error}): pip install "
            "'vod2[mot]'"
        ) from error


def check_mot(cfg: CfgNode, is_linked: bool) -> None:
    """With TEST.REQUIRE_HOTA, make sure before an evaluation that the metrics can be computed after it.

    Args:
        is_linked: the detections will have tracks.

    Raises:
        UserError: they cannot.
    """
    if not cfg.TEST.REQUIRE_HOTA:
        return
    if not is_linked:
        raise UserError(
            "TEST.REQUIRE_HOTA is True, but detections that are not linked have no tracks: set "
            "MODEL.VIDEO.LINKER.NAME and TEST.CONTEXT 'own', or TEST.REQUIRE_HOTA to False"
        )
    require_trackers()


def mot_metrics_if_possible(
    detections: Detections,
    truth: GroundTruth,
    tracks: TrackIndex,
    frames: VideoFrames,
    class_names: Sequence[str],
) -> dict[str, float]:
    """`mot_metrics`; {} where detections or objects have no tracks, and with a warning where the package is missing."""
    if detections.track_ids is None:
        return {}
    if not _has_identity(truth, tracks).any():
        logger.warning("no annotated object has a track: HOTA, IDF1 and MOTA are left out")
        return {}
    try:
        require_trackers()
    except UserError as error:
        logger.warning("left out: %s", error)
        return {}
    return mot_metrics(detections, truth, tracks, frames, class_names)


def mot_metrics(
    detections: Detections,
    truth: GroundTruth,
    tracks: TrackIndex,
    frames: VideoFrames,
    class_names: Sequence[str],
    score_threshold: float = SCORE_THRESHOLD,
) -> dict[str, float]:
    """HOTA (Luiten et al., IJCV 2021), IDF1 (Ristani et al., ECCVW 2016) and MOTA (Bernardin and Stiefelhagen, 2008).

    Each class is evaluated by itself, with the counts of all videos added; a detection of another class than the
    object's is false. Detections below `score_threshold` do not count. MOTA and IDF1 match at an IoU of .5.

    Neither right nor wrong are detections matched to an ignored object or to one without a track, and unmatched ones
    that lie in an ignore region (`is_ignored`). A frame without objects counts with its false detections.

    Args:
        detections: with `track_ids`; those of -1 are detections of a track of their own, of a single frame.
        tracks: of the m ground truths.
        frames: `image` of both sides is a row of them.
        class_names: K names.

    Returns:
        `MOT_METRICS`: means over the classes that have annotated tracks, and the sum of identity switches;
        "HOTA-<class>", "IDF1-<class>" and "MOTA-<class>". In percent (MOTA may be negative), NaN for a class without
        annotated tracks.

    Raises:
        UserError: the package `trackers` is not installed.
        ValueError: the detections have no track_ids.
    """
    if detections.track_ids is None:
        raise ValueError("mot_metrics: the detections have no track_ids, expected linked ones")
    library = require_trackers()
    objects, identities = _objects(truth, tracks)
    found = _counted(take_rows(detections, detections.scores >= score_threshold), truth, tracks, frames)
    found = take_rows(found, np.isin(found.labels, objects.labels))  # other classes have no value
    per_class = np.full((len(class_names), len(MOT_METRICS)), np.nan)
    for label, of_class in groupby(_sequences(found, objects, identities, frames), key=itemgetter(0)):
        per_class[label] = _metrics_of_class(library, [sequence for _, sequence in of_class])
    results = {}
    for column, name in enumerate(MOT_METRICS):
        values = per_class[:, column]
        results[name] = float(np.nansum(values)) if name == "id-switches" else mean_average_precision(values)
    for name in PER_CLASS:
        values = per_class[:, list(MOT_METRICS).index(name)]
        results.update((f"{name}-{c}", float(value)) for c, value in zip(class_names, values, strict=True))
    return results


class _Sequence(NamedTuple):
    """One class in one video, of the frames that have an object or a detection of it.

    Attributes:
        objects: of each frame the identities (g,).
        detections: of each frame the track ids (d,).
        iou: of each frame (g, d) float64.
    """

    objects: list[np.ndarray]
    detections: list[np.ndarray]
    iou: list[np.ndarray]


def _metrics_of_class(library: ModuleType, videos: Sequence[_Sequence]) -> list[float]:
    """The values of `MOT_METRICS`."""
    hota = library.aggregate_hota_metrics([library.compute_hota_metrics(*video) for video in videos])
    identity = library.aggregate_identity_metrics([library.compute_identity_metrics(*video) for video in videos])
    clear = library.aggregate_clear_metrics([library.compute_clear_metrics(*video) for video in videos])
    values: dict[str, Any] = hota | identity | clear
    return [*(100 * values[name] for name in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")), values["IDSW"]]


def _has_identity(truth: GroundTruth, tracks: TrackIndex) -> np.ndarray:
    return (tracks.track >= 0) & ~truth.ignore


def _objects(truth: GroundTruth, tracks: TrackIndex) -> tuple[GroundTruth, np.ndarray]:
    """The objects that have an identity, and these."""
    rows = np.flatnonzero(_has_identity(truth, tracks))
    rows = rows[_first_in_frame(truth.image[rows], truth.labels[rows], tracks.track[rows], "annotated tracks")]
    return take_rows(truth, rows), tracks.track[rows]


def _counted(detections: Detections, truth: GroundTruth, tracks: TrackIndex, frames: VideoFrames) -> Detections:
    """The detections that are right or wrong, each with a track."""
    matches = match_detections(detections, truth, PROTOCOLS["fixed"])
    is_matched = matches >= 0
    neither = ~is_matched & is_ignored(detections, frames.regions)
    neither[is_matched] = ~_has_identity(truth, tracks)[matches[is_matched]]
    kept = take_rows(detections, ~neither)
    assert kept.track_ids is not None  # `mot_metrics` has looked
    # Those without a track get new numbers above the others.
    alone = np.flatnonzero(kept.track_ids < 0)
    track_ids = kept.track_ids.copy()
    track_ids[alone] = np.arange(len(alone)) + track_ids.max(initial=-1) + 1
    surest = np.argsort(-kept.scores, kind="stable")
    first = _first_in_frame(kept.image[surest], kept.labels[surest], track_ids[surest], "tracks of detections")
    rows = np.sort(surest[first])
    return Detections(kept.image[rows], kept.boxes[rows], kept.scores[rows], kept.labels[rows], track_ids[rows])


def _first_in_frame(image: np.ndarray, labels: np.ndarray, track: np.ndarray, what: str) -> np.ndarray:
    """The rows, without those whose frame has their class and track before: a track is at one place at a time."""
    keys = np.stack([image, labels, track], axis=1)
    rows = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    if repeated := len(track) - len(rows):
        logger.warning(
            "HOTA, IDF1 and MOTA leave out %d boxes of %s that have another box in the frame", repeated, what
        )
    return rows


def _sequences(
    found: Detections, objects: GroundTruth, identities: np.ndarray, frames: VideoFrames
) -> Iterator[tuple[int, _Sequence]]:
    """Class and sequence of each class in each video where there is any of it, by ascending class."""
    length = int(frames.place.max(initial=0)) + 1
    videos = int(frames.video.max(initial=0)) + 1

    def cell(side: Detections | GroundTruth) -> np.ndarray:  # one number for class, video and frame
        return (side.labels.astype(np.int64) * videos + frames.video[side.image]) * length + frames.place[side.image]

    found_cell, object_cell = cell(found), cell(objects)
    found_order, object_order = (np.argsort(cells, kind="stable") for cells in (found_cell, object_cell))
    cells = np.union1d(found_cell, object_cell)
    found_ends = np.searchsorted(found_cell, [cells, cells + 1], sorter=found_order).T
    object_ends = np.searchsorted(object_cell, [cells, cells + 1], sorter=object_order).T
    starts = np.flatnonzero(np.diff(cells // length, prepend=-1))
    assert found.track_ids is not None
    for start, stop in zip(starts, np.append(starts[1:], len(cells)), strict=True):
        sequence = _Sequence([], [], [])
        for row in range(start, stop):
            of_objects, of_found = object_order[slice(*object_ends[row])], found_order[slice(*found_ends[row])]
            sequence.objects.append(identities[of_objects])
            sequence.detections.append(found.track_ids[of_found])
            sequence.iou.append(pairwise_iou(objects.boxes[of_objects], found.boxes[of_found].astype(np.float64)))
        yield int(cells[start] // (length * videos)), sequence
