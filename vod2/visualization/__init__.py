"""Pictures and pages of detections."""

from vod2.moved import moved
from vod2.visualization.compare import side_by_side, side_by_side_size
from vod2.visualization.draw import class_color, class_name, draw_box, draw_instances
from vod2.visualization.page import Page
from vod2.visualization.relations import draw_relations
from vod2.visualization.report import ReportWriter, write_report
from vod2.visualization.trails import Trails

__all__ = [
    "Page",
    "ReportWriter",
    "Trails",
    "class_color",
    "class_name",
    "draw_box",
    "draw_instances",
    "draw_relations",
    "side_by_side",
    "side_by_side_size",
    "write_report",
]

__getattr__ = moved(
    __name__,
    {
        "VideoWriter": "vod2.video:VideoWriter",
        "report_video": "vod2.video.browser",
        "video_writer": "vod2.video.writer",
    },
)
