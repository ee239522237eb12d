"""Pictures, videos and pages of detections."""

from vod2.visualization.draw import class_color, class_name, draw_instances
from vod2.visualization.report import write_report
from vod2.visualization.video_writer import VideoWriter

__all__ = ["VideoWriter", "class_color", "class_name", "draw_instances", "write_report"]
