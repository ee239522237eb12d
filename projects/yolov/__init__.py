"""YOLOV: Making Still Image Object Detectors Great at Video Object Detection (Shi et al., AAAI 2023)."""

from vod2.projects.yolov.aggregator import YOLOVAggregator
from vod2.projects.yolov.box_head import TwoTowerBoxHead
from vod2.projects.yolov.config import add_yolov_config

__all__ = ["TwoTowerBoxHead", "YOLOVAggregator", "add_yolov_config"]
