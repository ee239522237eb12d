"""Every reader of outside input as a function of the bytes of one file, for tools/fuzz.py and tests/tools/test_fuzz.py.

A target makes its folder once: what else the reader needs is there and whole, and only its one file changes.
"""

from collections.abc import Callable
from pathlib import Path

from fuzzing import annotators, datasets, media, results, settings
from fuzzing.target import Target

_MAKERS = (
    *(datasets.coco, datasets.coco_of_files, datasets.coco_packed, datasets.image_ids, datasets.vid_xml),
    *(datasets.vid_list, datasets.vid_sidecar, datasets.synthetic_manifest, datasets.benchmark_manifest),
    *(datasets.annotation_cache, datasets.det_list, datasets.mot, datasets.mot_seqinfo, datasets.mot_labels),
    *(datasets.uavdt, datasets.yolo, datasets.yolo_names, datasets.matlab, datasets.workbook),
    *(annotators.cvat, annotators.label_studio, annotators.visdrone, annotators.bdd, annotators.epic),
    *(annotators.epic_nouns,),
    *(settings.names_json, settings.names_text, settings.config, settings.overrides, settings.rows, settings.suite),
    *(settings.registered_file, settings.frame_kinds, settings.seconds),
    *(results.weights, results.pth, results.pkl, results.checkpoint_manifest, results.last_checkpoint),
    *(results.detections, results.truth, results.curves, results.relations, results.results),
    *(results.found_json, results.found_lines, results.found_mot),
    *(results.archive_manifest, results.archive_list, results.damage_record),
    *(media.png, media.video),
)
TARGETS: dict[str, Callable[[Path], Target]] = {make.__name__.replace("_", "-"): make for make in _MAKERS}
"""Name -> makes the target in an empty folder."""

__all__ = ["TARGETS", "Target"]
