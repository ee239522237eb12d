"""The table with which the demo ends."""

from vod2.commands import demo
from vod2.package_files import shipped_weights


def test_the_table_has_a_row_for_each_detector_and_calls_its_measure_by_name():
    metrics = {
        "single_frame": {"AP50": 93.04, "AP50-clean": 100.0, "AP50-motion_blur": 83.0},
        "rdn": {"AP50": 99.96, "AP50-clean": 100.0, "AP50-motion_blur": 98.5},
    }
    header, _, single, rdn = demo.table(metrics, demo.ROWS).splitlines()
    assert header.split() == ["held-out", "videos", "AP50", "clean", "motion", "blur"]
    assert single.split() == ["single_frame", "93.0", "100.0", "83.0"]
    assert rdn.split() == ["rdn", "100.0", "100.0", "98.5"]


def test_its_detectors_come_with_vod2():
    assert {"vod_synth/FasterRCNN", "vod_synth/RDN"} <= shipped_weights().keys()
